"""Image students: the catalogue, options, and a training step of every pair of teacher, student and objective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SCRATCH, distill, losses_of

import distill as package
import losses
from distill.data.batch import Batch
from distill.data.pairs import Slot
from distill.data.shards import Shards
from distill.errors import UserError
from distill.lookup import resolve
from distill.recipe import load
from distill.training.gather import embeddings, terms
from distill.training.setup import Networks, pairs_of
from distill.training.step import with_teacher_outputs
from launch import group as processes
from students import IMAGE_STUDENTS, ImageSpec, SentencePieceTokenizer, image_tower
from students.catalogue import gflops


@pytest.mark.parametrize("student", IMAGE_STUDENTS, ids=lambda one: one.arch)
def test_the_catalogue_states_the_sizes_of_each_architecture(student: Any) -> None:
    import timm

    with torch.device("meta"):
        net = timm.create_model(student.arch, num_classes=0)
    assert sum(p.numel() for p in net.parameters()) == student.parameters
    assert net.num_features == student.width or net.head_hidden_size == student.width
    assert gflops(net, student.image_size) == pytest.approx(student.gflops, rel=0.01)


def test_the_operations_of_a_network_are_counted_as_by_hand() -> None:
    """A patch embedding, per block four projections, two products of attention and an MLP; each product counts 2."""
    t, d, depth = (32 // 8) ** 2, 48, 2
    net = image_tower(
        ImageSpec(
            arch="vit_tiny_patch16_224", patch_size=8, embed_dim=d, depth=depth, num_heads=3, class_token=False,
            global_pool="avg",
        ),
        10,
        32,
    ).net  # fmt: skip
    block = 2 * t * d * 4 * d + 2 * 2 * t * t * d + 2 * 2 * t * d * 4 * d
    expected = 2 * t * (3 * 8 * 8) * d + depth * block + 2 * d * 10
    assert gflops(net, 32) * 1e9 == expected


def test_the_list_is_filtered_and_measured() -> None:
    rows = json.loads(distill("students", "list", "tests", "--max-parameters", "0.25M", "--measure", "--json").stdout)
    assert [row["arch"] for row in rows] == ["test_convnext", "test_efficientnet"]
    assert all(row["images_per_second"] > 0 for row in rows)
    said = distill("students", "list", "mobilenet").stdout
    assert all(line.startswith("mobilenet") for line in said.splitlines()) and "GFLOPs" in said
    assert "No architecture is like that" in distill("students", "list", "nothing").stderr


# --- every pair of (teacher, student, objective)

TEACHERS = {
    "convolutional": ["teacher.0={name='packaged/efficientnet_lite0', image_size=64, cache='none'}"],
    "transformer in a folder": ["teacher.0={name='VIT', image_size=32, cache='none'}"],
    "text": ["teacher=[{name='packaged/all_minilm_l6_v2', cache='none'}]"],
    "image and text": [
        "teacher=[{name='packaged/efficientnet_lite0', image_size=64, cache='none'},"
        "{name='packaged/all_minilm_l6_v2', cache='none', weight=0.5}]"
    ],
    "none": ["teacher=[]"],
}
VIT = "arch='vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1, embed_dim=48, num_heads=3"
STUDENTS = {
    "ViT, MAP": f"{{{VIT}, class_token=false, global_pool='map', drop_path_rate=0.1}}",
    "ViT, token": f"{{{VIT}, global_pool='token', grad_checkpointing=true}}",
    "SoViT": "{arch='vit_so150m_patch16_reg4_map_256', embed_dim=48, depth=1, num_heads=3}",
    "Mixer": "{arch='mixer_s32_224', img_size=32}",
    "ResNet": "{arch='resnet10t'}",
    "BiT": "{arch='resnetv2_50x1_bit'}",
    "ConvNeXt": "{arch='convnext_atto', depths=[1,1,1,1], dims=[16,32,48,64]}",
    "EfficientNet-Lite": "{arch='tf_efficientnet_lite0', width_multiplier=0.25, depth_multiplier=0.5}",
    "MobileNetV4": "{arch='mobilenetv4_conv_small', width_multiplier=0.25}",
    "FastViT": "{arch='fastvit_t8', layers=[1,1,1,1]}",
    "RepViT": "{arch='repvit_m0_9', embed_dim=[16,32,48,64], depth=[1,1,1,1]}",
}


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision transformer that timm has saved."""
    import timm

    folder = tmp_path_factory.mktemp("teachers") / "vit"
    options = {"img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 24, "num_heads": 2}
    net = timm.create_model("vit_tiny_patch16_224", **options)
    config = {"input_size": [3, 32, 32], "fixed_input_size": True}
    timm.models.save_for_hf(net, folder, model_config=config, model_args=options, safe_serialization=True)
    return folder


def settings_of(number: int, student: str, objective: str, vit_folder: Path) -> list[str]:
    """The recipe's settings for a student and an objective, with one teacher after the other."""
    teacher = list(TEACHERS)[number % len(TEACHERS)]
    settings = [setting.replace("VIT", str(vit_folder)) for setting in TEACHERS[teacher]]
    return [f"student.image={STUDENTS[student]}", f"objective={{name='{objective}'}}", *settings]


@pytest.mark.parametrize("objective", losses.names())
@pytest.mark.parametrize("student", STUDENTS)
def test_a_step_of_every_pair_of_teacher_student_and_objective(
    recipe: Path, shards: Path, vit_folder: Path, student: str, objective: str
) -> None:
    """Every gradient is finite, none of a student's weights is without one, and the loss falls."""
    number = list(STUDENTS).index(student) + losses.names().index(objective)
    try:
        resolved = resolve(load(str(recipe), settings_of(number, student, objective, vit_folder)))
    except UserError as error:
        assert f"The objective '{objective}'" in str(error) or "objective.name" in str(error), error
        return
    opened = Shards.open([str(shards)])
    networks, tokenizer = Networks(resolved), SentencePieceTokenizer.train(["a red circle"] * 9, 20, 8)
    model = networks.model(tokenizer.vocab)
    batch = pairs_of(resolved, opened, tokenizer).__getitems__([Slot(0, i, i) for i in range(12)])
    opened.close()
    assert isinstance(batch, Batch)
    group = processes.join()
    batch = with_teacher_outputs(batch, [networks.teacher(k) for k in range(len(resolved.teachers))], group.device)
    weights = [teacher.table.weight for teacher in resolved.teachers]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        rows = model(batch.inputs, batch.teachers)
        return terms(resolved.objective, embeddings(rows, resolved.needs, weights, group))["loss"]

    before = loss()
    before.backward()
    gradients = {name: p.grad for name, p in model.image.named_parameters()}
    assert all(value is not None and value.isfinite().all() for value in gradients.values()), gradients.keys()
    optimizer.step()
    assert loss().item() < before.item()


def test_activations_that_are_computed_again_change_nothing(recipe: Path, tmp_path: Path) -> None:
    for name, setting in (("kept", "false"), ("again", "true")):
        words = ["--set", f"student.image.grad_checkpointing={setting}", *SCRATCH]
        distill("train", recipe, "--out", tmp_path / name, *words)
    assert losses_of(tmp_path / "again") == pytest.approx(losses_of(tmp_path / "kept"), rel=1e-6)
    config = json.loads((Path(package.export(tmp_path / "again", tmp_path / "export")) / "config.json").read_text())
    assert "grad_checkpointing" not in config["image"]["options"]


def test_an_architecture_that_cannot_compute_activations_again_says_so(recipe: Path, tmp_path: Path) -> None:
    words = ["--set", "student.image={arch='inception_v3', grad_checkpointing=true}", *SCRATCH]
    said = distill("train", recipe, "--out", tmp_path / "run", *words, status=2).stderr
    assert "timm cannot build 'inception_v3'" in said and said.count("\n") == 1
