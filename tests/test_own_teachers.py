"""Teachers of the user's own: files and folders that give what they hold, and those that must not be believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import noise, random_state
from safetensors.torch import save_file
from torch.testing import assert_close

import teachers


class Trap:
    """Unpickled by Python, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_file_in_any_usual_wrapping_gives_the_same_teacher(tmp_path: Path) -> None:
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
        out = teachers.load(teachers.with_weights(card, str(file)), 96)(x)
        expected = out if expected is None else expected
        assert_close(out, expected, rtol=0, atol=0, msg=file.name)
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert teachers.load(teachers.with_weights(card, str(tmp_path / "a.safetensors"), digest[:16].upper()), 96)


def test_a_folder_that_timm_has_saved_is_a_teacher(tmp_path: Path) -> None:
    """A Places ViT of one's own, with its own size and statistics; at another size its positions are interpolated."""
    net = timm.create_model("vit_tiny_patch16_224", num_classes=365, img_size=96, depth=2)
    net.pretrained_cfg.update(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2), input_size=(3, 96, 96), num_classes=365)
    folder = tmp_path / "places-vit"
    timm.models.save_for_hf(net, str(folder), model_args={"img_size": 96, "depth": 2}, safe_serialization=True)
    assert (folder / "model.safetensors").is_file()
    card = teachers.card(str(folder))
    assert (card.width, card.classes, card.image_size, card.mean[0]) == (192, 365, 96, 0.4)
    with torch.no_grad():
        normal = (noise(2, 96).float() / 255 - 0.4) / 0.2
        assert_close(teachers.load(card, logits=True)(noise(2, 96)), net.eval()(normal), rtol=1e-4, atol=1e-4)
    assert teachers.load(card, 128)(noise(1, 128)).shape == (1, 192)
    # Of what its settings name, nothing else is read.
    harm = tmp_path / "harm.pth"
    torch.save(Trap(tmp_path / "sprung"), harm)
    config = json.loads((folder / "config.json").read_text())
    further = {"checkpoint_path": str(harm), "pretrained_cfg": {"file": str(harm)}, "pretrained": True}
    (folder / "config.json").write_text(json.dumps(config | {"model_args": config["model_args"] | further}))
    assert_close(teachers.load(teachers.card(str(folder)))(noise(2, 96)), teachers.load(card)(noise(2, 96)))
    assert not (tmp_path / "sprung").exists()


def test_a_folder_of_a_sentence_encoder_is_a_text_teacher() -> None:
    packaged = teachers.card("packaged/all_minilm_l6_v2")
    assert packaged.file is not None
    card = teachers.card(str(packaged.file()))
    assert (card.modality, card.arch, card.width, card.context) == ("text", "bert", 384, 64)
    tokens = teachers.tokenizer(card).encode(["a red apple", "un gato"])
    assert_close(teachers.load(card)(tokens), teachers.load(packaged)(tokens))


def test_files_that_must_not_be_believed(tmp_path: Path) -> None:
    card, good = teachers.card("timm/resnet18"), tmp_path / "good.pth"
    state = random_state(timm.create_model("resnet18"))
    torch.save(state, good)

    def refused(name: str, said: str, sha256: str = "") -> None:
        with pytest.raises(ValueError, match=said):
            teachers.load(teachers.with_weights(card, str(tmp_path / name), sha256), 64)

    torch.save({"state_dict": state, "hook": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    refused("trap.pth", "holds more than tensors: .*can run code when they are read, so it is refused")
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


def test_paths_that_are_no_teachers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vit.safetensors").write_bytes(b"")
    for name, said in {
        "vit.safetensors": 'Set teacher.N.name = "timm/ARCH" and teacher.N.weights',
        "absent": "There is no folder",
    }.items():
        with pytest.raises(LookupError, match=said):
            teachers.card(str(tmp_path / name))
    for content, said in {
        "{}": "names neither",
        "[1]": "no table",
        "{": "missing or damaged",
        '{"architecture": "resnet18", "model_args": [1]}': "is damaged",
    }.items():
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=said):
            teachers.card(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(ValueError, match="holds no weights: there is no model.safetensors"):
        teachers.load(teachers.card(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"architecture": "no_such_net"}')
    with pytest.raises(ValueError, match="timm cannot build 'no_such_net'"):
        teachers.card(str(tmp_path))
    with pytest.raises(ValueError, match="is a folder. Name that folder as teacher.N.name"):
        teachers.with_weights(teachers.card("packaged/all_minilm_l6_v2"), "x")
