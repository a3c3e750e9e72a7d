"""Where students start: whole weights of another network, or a part of a larger one's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import RECIPE, SCRATCH, distill, losses_of, random_state
from safetensors.torch import load_file, save_file

import distill as package
import teachers
from distill.lookup import resolve
from distill.recipe import load
from distill.ship.config_file import read_config
from distill.training import checkpoint
from distill.training.setup import Networks
from students import ImageSpec, image_tower, text_tower_class
from students.inheritance import inherit
from students.scaled import create

LITE0 = "packaged/efficientnet_lite0"
# (family, options of a small network, options of a larger one)
FAMILIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {"embed_dim": 48, "num_heads": 3, "depth": 2}, {"num_heads": 3, "depth": 2}),
    ("vit_tiny_patch16_224", {"embed_dim": 60, "num_heads": 3, "depth": 2}, {"num_heads": 3, "depth": 2}),  # 192 / 60
    ("swin_tiny_patch4_window7_224", {"embed_dim": 48, "depths": (1, 1, 2, 1)}, {"depths": (1, 1, 2, 1)}),
    ("convnext_atto", {"dims": (20, 40, 80, 160), "depths": (1, 1, 2, 1)}, {"depths": (1, 1, 2, 1)}),
    ("tf_efficientnet_lite0", {"width_multiplier": 0.5}, {}),
    ("mobilenetv4_conv_small", {"width_multiplier": 0.5}, {}),
]


def spread(small: torch.Tensor, shape: torch.Size, joined: int) -> torch.Tensor:
    """A tensor of a larger shape whose evenly spaced part is ``small``, and that is NaN everywhere else."""
    places = []
    for dim, (many, few) in enumerate(zip(shape, small.shape, strict=True)):
        groups = joined if dim == 0 and many != few else 1
        each = [
            [group * (many // groups) + int(k * many / few) for k in range(few // groups)] for group in range(groups)
        ]
        places.append(np.concatenate(each))
    large = np.full(tuple(shape), np.nan, dtype=np.float32)
    large[np.ix_(*places)] = small.numpy()
    return torch.from_numpy(large)


@pytest.mark.parametrize(("arch", "small", "large"), FAMILIES)
def test_a_selected_network_is_the_one_that_was_spread_evenly_over_a_larger_one(
    arch: str, small: dict[str, Any], large: dict[str, Any]
) -> None:
    own, wide = create(arch, num_classes=8, **small), create(arch, num_classes=8, **large)
    expected = random_state(own)
    source = {
        name: spread(expected[name], value.shape, 3 if "qkv" in name else 1) if value.is_floating_point() else value
        for name, value in wide.state_dict().items()
    }
    found = inherit(own.state_dict(), source, "first", grid=True)
    assert not found.random and not found.interpolated and found.selected
    assert {n: v.shape for n, v in found.tensors.items()} == {n: v.shape for n, v in own.state_dict().items()}
    for name, value in expected.items():
        assert torch.equal(found.tensors[name], value), name
    assert found.share("copied", "selected") == 1


@pytest.mark.parametrize(("layers", "numbers"), [("first", [0, 1, 2]), ("even", [0, 2, 5])])
def test_layers_of_a_deeper_network(layers: str, numbers: list[int]) -> None:
    options = {"embed_dim": 48, "num_heads": 3, "num_classes": 4}
    own = timm.create_model("vit_tiny_patch16_224", depth=3, **options).state_dict()
    deep = random_state(timm.create_model("vit_tiny_patch16_224", depth=6, **options))
    found = inherit(own, deep, layers)
    assert len(found.copied) == len(own)
    for k, number in enumerate(numbers):
        assert torch.equal(found.tensors[f"blocks.{k}.mlp.fc1.weight"], deep[f"blocks.{number}.mlp.fc1.weight"])


def test_a_list_of_depth_multipliers_makes_each_stage_shallower_by_its_own() -> None:
    """Stages of EfficientNet-Lite0 have 1, 2, 2, 3, 3, 4 and 1 layers; a selection takes the first ones of each."""
    factors, layers = [1, 1, 0.5, 0.33, 0.5, 0.25, 1], [1, 2, 1, 1, 2, 1, 1]
    own = create("tf_efficientnet_lite0", depth_multiplier=factors, num_classes=4)
    assert [len(stage) for stage in own.blocks] == layers
    whole = create("tf_efficientnet_lite0", num_classes=4).state_dict()
    found = inherit(own.state_dict(), whole, "first")
    assert not found.random and not found.selected and len(found.copied) == len(own.state_dict())
    assert torch.equal(found.tensors["blocks.5.0.conv_pw.weight"], whole["blocks.5.0.conv_pw.weight"])


def test_layers_within_the_stages_of_a_convolutional_network() -> None:
    own = create("tf_efficientnet_lite0", depth_multiplier=0.5, num_classes=4).state_dict()
    deep = random_state(create("tf_efficientnet_lite0", num_classes=4))
    found = inherit(own, deep, "even")
    assert not found.random and not found.selected
    stage = [sum(f"blocks.4.{k}.conv_pw.weight" in state for k in range(9)) for state in (own, deep)]
    assert stage == [2, 3]
    assert torch.equal(found.tensors["blocks.4.1.conv_pw.weight"], deep["blocks.4.2.conv_pw.weight"])


def test_a_text_tower_of_half_the_layers_and_half_the_width() -> None:
    kind = text_tower_class("transformer")
    small = kind(kind.Options(dim=24, depth=2, heads=3, context=6), 50, 8)  # type: ignore[call-arg]
    large = kind(kind.Options(dim=48, depth=4, heads=3, context=12), 50, 8)  # type: ignore[call-arg]
    report = small.start_from(large.state_dict(), "even")
    assert report.interpolated == ["positions"] and not report.random
    assert torch.equal(small.state_dict()["positions"], large.state_dict()["positions"][:6, ::2])
    weight = large.state_dict()["blocks.layers.3.self_attn.in_proj_weight"]
    assert torch.equal(small.state_dict()["blocks.layers.1.self_attn.in_proj_weight"], weight[::2, ::2])


@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 4}])
def test_positions_are_interpolated_as_timm_does(options: dict[str, Any]) -> None:
    arch = "vit_tiny_patch16_224"
    net = timm.create_model(arch, num_classes=8, depth=1, **options)
    state = random_state(net)
    tower = image_tower(ImageSpec(arch=arch, depth=1, **options), 8, 96)
    report = tower.start_from(state)
    assert report.interpolated == ["pos_embed"] and not report.random
    overlay = {"state_dict": state, "num_classes": 8}
    expected = timm.create_model(
        arch, pretrained=True, num_classes=8, depth=1, img_size=96, pretrained_cfg_overlay=overlay, **options
    )
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(tower.net.state_dict()[name], value, rtol=0, atol=1e-6)


def test_half_of_the_teachers_channels_compute_something_like_the_teacher() -> None:
    """Weight selection is worth nothing in itself; that the tensors go together shows in finite, different outputs."""
    teacher = teachers.load(teachers.card(LITE0))
    torch.manual_seed(0)
    tower = image_tower(ImageSpec(arch="tf_efficientnet_lite0", width_multiplier=0.5), 16, 64)
    report = tower.start_from(dict(teacher.net.state_dict()), "first")
    assert report.random == ["classifier.weight", "classifier.bias"] and report.selected
    said = f"{len(report.copied)} tensors copied (1% of the weights), {len(report.selected)} tensors selected (97% of"
    assert report.describe().startswith(said) and report.counts()["random"] == 2
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    rows = tower.eval()(pictures)["embedding"]
    assert rows.isfinite().all() and rows.std(dim=0).min() > 0


# --- through the command

STUDENT = "student.image={{arch='tf_efficientnet_lite0', width_multiplier=0.25, init='{}', select='first'}}"


def about(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())


def test_a_student_from_any_card_trains_resumes_and_ships(recipe: Path, tmp_path: Path) -> None:
    words = ["--set", STUDENT.format(LITE0), *SCRATCH]
    run = tmp_path / "run"
    said = distill("train", recipe, "--out", run, *words).stderr
    assert re.search(
        r"The image student's first weights: \d+ tensors copied \(\d+% of the weights\), \d+ tensors sel", said
    )
    counts = about(run)["initial_weights"]["image"]
    assert counts["random_names"] == ["classifier.weight", "classifier.bias"] and counts["selected"] > 50
    card = teachers.card(LITE0)
    exported = read_config(package.export(run, tmp_path / "export"))
    assert (exported.image.mean, exported.image.std) == (card.mean, card.std), "not those of the architecture"
    assert exported.image.options == {"width_multiplier": 0.25}
    refused = distill("export", run, "--out", tmp_path / "timm", "--format", "timm", status=2).stderr
    assert "by its name, which has no width multiplier" in refused and not (tmp_path / "timm").exists()
    # Weights that are selected by hand, given as a file of the student's own size, train alike.
    tower = image_tower(ImageSpec(arch="tf_efficientnet_lite0", width_multiplier=0.25), 32, 32)
    tower.start_from(dict(teachers.load(card).net.state_dict()), "first")
    state = {name: value for name, value in tower.net.state_dict().items() if "classifier" not in name}
    save_file(state, tmp_path / "own.safetensors")
    own = words[1].replace("select='first'", "mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]")
    own = own.replace(LITE0, str(tmp_path / "own.safetensors"))
    again = distill("train", recipe, "--out", tmp_path / "again", "--set", own, *SCRATCH)
    assert "2 left random" in again.stderr
    assert losses_of(tmp_path / "again") == pytest.approx(losses_of(run), rel=1e-6)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A run, its export, and a folder that timm has saved."""
    home = tmp_path_factory.mktemp("sources")
    (home / "recipe.toml").write_text(RECIPE.format(shards=shards))
    words = [
        "--set",
        "train.steps=1",
        "--set",
        "student.image={arch='resnet10t', mean=[0.4,0.5,0.6], std=[0.2,0.3,0.2]}",
    ]
    distill("train", home / "recipe.toml", "--out", home / "run", *words, *SCRATCH)
    distill("export", home / "run", "--out", home / "export")
    timm.models.save_for_hf(timm.create_model("resnet10t"), home / "timm", safe_serialization=True)
    return home


@pytest.mark.parametrize("kind", ["run", "export", "timm", "export/image.safetensors"])
def test_a_student_starts_from_whatever_holds_its_weights(
    sources: Path, recipe: Path, tmp_path: Path, kind: str
) -> None:
    copy, run = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(sources, copy)
    words = ["--set", f"student.image={{arch='resnet10t', init='{copy / kind}'}}", *SCRATCH]
    words += ["--set", "train.steps=3", "--set", "checkpoint.every_steps=1"]
    distill("train", recipe, "--out", run, *words)
    start = about(run)["initial_weights"]["image"]
    assert start["selected"] == start["interpolated"] == 0
    assert start["random_names"] == ([] if kind != "timm" else ["fc.weight", "fc.bias"])
    config = read_config(package.export(run, tmp_path / "out")).image
    if kind in ("run", "export"):
        assert config.mean == pytest.approx((0.4, 0.5, 0.6)) and config.std == pytest.approx((0.2, 0.3, 0.2))
    # What it started from is not needed any more.
    shutil.rmtree(copy)
    before = losses_of(run)
    distill("train", run / "recipe.toml", "--out", run, "--resume", "--extend", "--set", "train.steps=4")
    assert len(losses_of(run)) == 4 and losses_of(run)[:3] == before


def test_it_starts_from_the_newest_checkpoint_of_a_run(sources: Path, recipe: Path) -> None:
    words = [f"student.image={{arch='resnet10t', init='{sources / 'run'}'}}", *SCRATCH[1::2]]
    tower = Networks(resolve(load(str(recipe), words))).image()
    newest = checkpoint.newest(sources / "run")
    assert newest is not None
    expected = load_file(newest / checkpoint.STUDENTS)
    for name, value in tower.state_dict().items():
        assert torch.equal(value, expected[f"image.{name}"]), name


def test_a_run_without_a_usable_checkpoint_begins_again_from_its_initial_weights(recipe: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ["--set", STUDENT.format(LITE0), *SCRATCH]
    distill("train", recipe, "--out", run, *words)
    before = losses_of(run)
    shutil.rmtree(run / "checkpoints")
    distill("train", run / "recipe.toml", "--out", run, "--resume")
    assert losses_of(run)[-len(before) :] == before


MISTAKES = {
    "{arch='resnet10t', init='packaged/efficientnet_lite0', select='first'}": "of another family",
    "{arch='resnet10t', init='packaged/efficientnet_lite0'}": "is a 'tf_efficientnet_lite0', not a 'resnet10t'",
    "{arch='resnet10t', select='even'}": "select takes a part of larger weights",
    "{arch='resnet10t', init='packaged/efficientnet_lite'}": "Did you mean packaged/efficientnet_lite2 or",
    "{arch='resnet10t', init='packaged/all_minilm_l6_v2'}": "embeds texts",
    "{arch='resnet10t', init='packaged/resnet50_thin'}": "none of timm's",
    "{arch='resnet10t', init='SHARDS/train-000000.tar'}": "no file of weights",
    "{arch='resnet10t', init='SHARDS'}": "is missing or damaged",
    "{arch='resnet10t', mean=[0.5, 0.5]}": "three numbers each",
    "{arch='resnet10t', width_multiplier=0.5}": "does not build 'resnet10t' by a width multiplier",
    "{arch='tf_efficientnet_lite0', width_multiplier=0}": "width_multiplier must be a number above 0",
    "{arch='tf_efficientnet_lite0', width_multiplier=[1, 0.5]}": "width_multiplier must be a number above 0.",
    "{arch='tf_efficientnet_lite0', depth_multiplier=[1, 0]}": "depth_multiplier must be a number above 0, or a list",
    "{arch='tf_efficientnet_lite0', depth_multiplier=[1, 0.5]}": "timm cannot build 'tf_efficientnet_lite0'",
}


@pytest.mark.parametrize("student", MISTAKES)
def test_mistakes_are_one_sentence_before_any_work(recipe: Path, shards: Path, tmp_path: Path, student: str) -> None:
    setting = f"student.image={student.replace('SHARDS', str(shards))}"
    result = distill("train", recipe, "--out", tmp_path / "run", "--set", setting, *SCRATCH, status=2)
    assert MISTAKES[student] in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()
