"""Teachers from the user's own files and folders: usual formats are loaded, unsafe and mismatched ones are refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import noise, random_state
from safetensors.torch import save_file
from torch.testing import assert_close

import teachers


class CreatesFile:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_weights_in_every_usual_file_format_give_the_same_teacher(tmp_path: Path) -> None:
    net = timm.create_model("resnet18", num_classes=7)
    net.load_state_dict(random_state(net))
    state = net.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"model": state, "optimizer": {"state": {}, "lr": 0.1}}, tmp_path / "c.pt")
    torch.save(state, tmp_path / "d.bin")
    torch.save({f"_orig_mod.module.{k}": v for k, v in state.items()}, tmp_path / "e.ckpt")
    headless = {k: v for k, v in state.items() if not k.startswith("fc.")}
    save_file(headless, tmp_path / "f.safetensors")
    x = noise(2, 96)
    card = teachers.card("timm/resnet18")
    expected = None
    for file in sorted(tmp_path.iterdir()):
        out = teachers.load(teachers.with_weights(card, str(file)), 96)(x)["embedding"]
        expected = out if expected is None else expected
        assert_close(out, expected, rtol=0, atol=0, msg=file.name)
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert teachers.load(teachers.with_weights(card, str(tmp_path / "a.safetensors"), digest[:16].upper()), 96)


def test_a_folder_saved_by_timm_is_a_teacher(tmp_path: Path) -> None:
    """A ViT with its own classes, image size, mean and std; at another size position embeddings are interpolated."""
    net = timm.create_model("vit_tiny_patch16_224", num_classes=365, img_size=96, depth=2)
    net.pretrained_cfg.update(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2), input_size=(3, 96, 96), num_classes=365)
    folder = tmp_path / "places-vit"
    timm.models.save_for_hf(net, str(folder), model_args={"img_size": 96, "depth": 2}, safe_serialization=True)
    assert (folder / "model.safetensors").is_file()
    card = teachers.card(str(folder))
    assert (card.width, card.classes, card.image_size, card.mean[0]) == (192, 365, 96, 0.4)
    with torch.no_grad():
        normalised = (noise(2, 96).float() / 255 - 0.4) / 0.2
        assert_close(
            teachers.load(card, outputs=("logits",))(noise(2, 96))["logits"],
            net.eval()(normalised),
            rtol=1e-4,
            atol=1e-4,
        )
    assert teachers.load(card, 128)(noise(1, 128))["embedding"].shape == (1, 192)
    # The configuration is of another network than the weights.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_args": {"img_size": 96, "depth": 3}}))
    with pytest.raises(ValueError, match="do not fit: of .* missing .* must be of one network: save the folder again"):
        teachers.load(teachers.card(str(folder)))
    # Other files that the configuration names are not read.
    unsafe = tmp_path / "harm.pth"
    torch.save(CreatesFile(tmp_path / "sprung"), unsafe)
    further = {"checkpoint_path": str(unsafe), "pretrained_cfg": {"file": str(unsafe)}, "pretrained": True}
    (folder / "config.json").write_text(json.dumps(config | {"model_args": config["model_args"] | further}))
    assert_close(teachers.load(teachers.card(str(folder)))(noise(2, 96)), teachers.load(card)(noise(2, 96)))
    assert not (tmp_path / "sprung").exists()


def test_a_folder_with_a_sentence_encoder_is_a_text_teacher() -> None:
    packaged = teachers.card("packaged/all_minilm_l6_v2")
    assert packaged.file is not None
    card = teachers.card(str(packaged.file()))
    assert (card.modality, card.arch, card.width, card.context) == ("text", "bert", 384, 64)
    tokens = teachers.tokenizer(card).encode(["a red apple", "un gato"])
    assert_close(teachers.load(card)(tokens), teachers.load(packaged)(tokens))


def test_unsafe_damaged_and_mismatched_weight_files_are_refused(tmp_path: Path) -> None:
    card, good = teachers.card("timm/resnet18"), tmp_path / "good.pth"
    state = random_state(timm.create_model("resnet18"))
    torch.save(state, good)

    def refused(name: str, message: str, sha256: str = "") -> None:
        with pytest.raises(ValueError, match=message):
            teachers.load(teachers.with_weights(card, str(tmp_path / name), sha256), 64)

    torch.save({"state_dict": state, "hook": CreatesFile(tmp_path / "sprung")}, tmp_path / "trap.pth")
    refused("trap.pth", "holds more than tensors: .*pathlib.Path, .*can run code when they are read, so it is refused")
    torch.save(timm.create_model("resnet18"), tmp_path / "whole_resnet18.pth.tar")
    refused("whole_resnet18.pth.tar", "holds more than tensors")
    assert not (tmp_path / "sprung").exists()
    refused("absent.pth", "There is no file .*absent.pth. Correct teacher.N.weights")
    refused("good.pth", "has the SHA-256 [0-9a-f]{64}, where abc is expected", sha256="abc")
    (tmp_path / "cut.pth").write_bytes(good.read_bytes()[:-1000])
    refused("cut.pth", "is damaged")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    refused("cut.safetensors", "is damaged")
    (tmp_path / "dot.pth").write_bytes(b".")
    refused("dot.pth", "is damaged")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    refused("empty.pth", "holds no weights")
    torch.save(random_state(timm.create_model("resnet50")), tmp_path / "other.pth")
    refused("other.pth", r"weights of 'timm/resnet18' \(resnet18\) do not fit: of 122 keys .* not known \(")


@pytest.mark.parametrize(
    ("arch", "other", "options", "message"),
    [
        # timm would resample these without a warning.
        ("vit_tiny_patch16_224", "", {"patch_size": 32}, "pos_embed is (1, 50, 192) instead of (1, 197, 192)"),
        ("vit_tiny_patch16_224", "", {"img_size": 384}, "pos_embed is (1, 577, 192) instead of (1, 197, 192)"),
        # Without position embeddings; and its patch embedding has as many elements as another of its tensors.
        ("eva02_base_patch14_224", "", {"patch_size": 28, "use_abs_pos_emb": False}, "(768, 3, 28, 28) instead of"),
        ("mvitv2_tiny", "", {"img_size": 448}, "rel_pos_h is (223, 96) instead of (111, 96)"),
        # timm would load these in part, without a warning.
        ("dla34", "resnet18", {"num_classes": 0}, "base_layer.0.weight is not in the file"),
        ("swin_tiny_patch4_window7_224", "swin_s3_tiny_224", {}, "bias_table is (729, 12) instead of (169, 12)"),
        # timm's function that translates an architecture's original names fails on the names of another.
        ("convnext_atto", "resnet18", {}, "of 126 keys"),
        ("beit_base_patch16_224", "swin_s3_tiny_224", {}, "195 missing"),
        ("poolformer_s12", "vit_tiny_patch16_224", {}, "of 130 keys"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    arch: str, other: str, options: dict[str, int], message: str, tmp_path: Path
) -> None:
    card, state = teachers.card(f"timm/{arch}"), timm.create_model(other or arch, **options).state_dict()
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        teachers.load(teachers.with_weights(card, str(tmp_path / "other.pth")))
    assert "as teacher.N.name" in str(refused.value)
    if options:  # also if a size is requested that is neither the network's nor the file's
        with pytest.raises(ValueError, match="do not fit"):
            teachers.load(teachers.with_weights(card, str(tmp_path / "other.pth")), 256)
    if "img_size" in options:
        assert teachers.load(teachers.with_weights(card, str(tmp_path / "other.pth")), options["img_size"])


def test_an_open_clip_file_is_translated_and_one_of_another_image_size_refused(tmp_path: Path) -> None:
    """The square matrices of this network have sizes that could be mistaken for position embeddings."""
    card = teachers.card("timm/vit_tiny_patch16_224")
    for side in (224, 384):
        state = random_state(timm.create_model(card.arch, img_size=side))
        torch.save({f"visual.trunk.{name}": value for name, value in state.items()}, tmp_path / f"{side}.pth")
        save_file(state, tmp_path / f"{side}.safetensors")
    clip_names, timms = (
        teachers.load(teachers.with_weights(card, str(tmp_path / f"224.{kind}"))) for kind in ("pth", "safetensors")
    )
    assert clip_names.fingerprint() == timms.fingerprint()
    assert teachers.load(teachers.with_weights(card, str(tmp_path / "384.pth")), 384)
    with pytest.raises(ValueError, match="do not fit: pos_embed is not in the file"):
        teachers.load(teachers.with_weights(card, str(tmp_path / "384.pth")))


# timm's names and those of OpenAI's CLIP, within a block and outside the blocks.
CLIP = {"norm1.": "ln_1.", "norm2.": "ln_2.", "attn.proj.": "attn.out_proj.", "mlp.fc1.": "mlp.c_fc."}
CLIP |= {"mlp.fc2.": "mlp.c_proj.", "attn.qkv.": "attn.in_proj_", "blocks.": "transformer.resblocks."}
CLIP |= {"norm_pre.": "ln_pre.", "norm.": "ln_post.", "patch_embed.proj.": "conv1.", "cls_token": "class_embedding"}
CLIP |= {"pos_embed": "positional_embedding", "head.weight": "proj"}


def clip_file(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A vision transformer's weights under the names in OpenAI's CLIP, together with parts of a text tower."""
    clip_names = {"token_embedding.weight": torch.zeros(9, 512), "logit_scale": torch.ones(())}
    for name, value in state.items():
        if name == "head.bias":
            continue
        for ours, other in CLIP.items():
            name = name.replace(ours, other)
        clip_names[f"visual.{name}"] = value.T.contiguous() if name == "proj" else value.squeeze()
    return clip_names


def test_an_original_clip_file_is_translated_and_one_of_another_patch_size_refused(tmp_path: Path) -> None:
    card = teachers.card("timm/vit_base_patch32_clip_224.openai")
    for patch in (16, 32):
        net = timm.create_model(card.arch, depth=2, patch_size=patch).eval()
        torch.save(clip_file(random_state(net)), tmp_path / f"{patch}.pth")
    small = dataclasses.replace(card, options={"depth": 2})
    loaded = teachers.load(teachers.with_weights(small, str(tmp_path / "32.pth")))
    net.load_state_dict(random_state(net))
    x = (noise(1, 224).float() / 255 - loaded.mean) / loaded.std
    with torch.no_grad():
        assert_close(loaded(noise(1, 224))["embedding"], net.forward_head(net.forward_features(x), pre_logits=True))
    with pytest.raises(ValueError, match="do not fit: pos_embed is not in the file"):
        teachers.load(teachers.with_weights(small, str(tmp_path / "16.pth")))


def test_paths_that_are_no_teachers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vit.safetensors").write_bytes(b"")
    for name, message in {
        "vit.safetensors": 'Set teacher.N.name = "timm/ARCH" and teacher.N.weights',
        "absent": "There is no folder",
    }.items():
        with pytest.raises(LookupError, match=message):
            teachers.card(str(tmp_path / name))
    for content, message in {
        "{}": "names neither",
        "[1]": "no table",
        "[" * 100_000: "missing or damaged",
        '{"architecture": "resnet18", "num_classes": "abc"}': "num_classes is 'abc' and no number",
        '{"model_type": "bert", "hidden_size": "abc"}': "hidden_size is 'abc' and no number",
        '{"architecture": "hf-hub:timm/resnet18.a1_in1k"}': "timm cannot build 'hf-hub:.*': it has no such model",
        "{": "missing or damaged",
        '{"architecture": "resnet18", "model_args": [1]}': "is damaged",
    }.items():
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            teachers.card(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(ValueError, match="holds no weights: there is no model.safetensors"):
        teachers.load(teachers.card(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"architecture": "no_such_net"}')
    with pytest.raises(ValueError, match="timm cannot build 'no_such_net'"):
        teachers.card(str(tmp_path))
    with pytest.raises(
        ValueError, match="timm has no weights of 'botnet50ts_256'. Name a file .* as teacher.N.weights"
    ):
        teachers.load(teachers.card("timm/botnet50ts_256"))
    with pytest.raises(ValueError, match="is a folder. Name that folder as teacher.N.name"):
        teachers.with_weights(teachers.card("packaged/all_minilm_l6_v2"), "x")
