"""Objectives that read named outputs: runs with an image student only, teachers with several outputs, patch tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPE, distill, encoded, losses_of, picture, write_tar
from safetensors.torch import load_file
from torch import nn

import distill as package
import losses
import teachers
from distill.data.cache_fill import MissingShards, embed
from distill.data.shards import Shards
from distill.data.view_cache import ViewCache
from distill.data.views import Views, decode
from distill.errors import UserError
from distill.lookup import resolve
from distill.recipe import load
from distill.training.caches import caches_of
from distill.training.setup import Networks
from losses import objectives
from losses.projections import Linear

LITE0 = "packaged/efficientnet_lite0"
IMAGE_STUDENT_ONLY = ["student.text=false", "objective.name=cosine", 'objective.terms=["fh"]', "train.steps=4"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of 24 pictures without captions."""
    folder = tmp_path_factory.mktemp("pictures")
    members = [(f"{i:03d}.png", encoded(picture("circle", "red", i))) for i in range(24)]
    return write_tar(folder / "train-000000.tar", members)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=pictures))
    words = [word for setting in IMAGE_STUDENT_ONLY for word in ("--set", setting)]
    distill("train", "recipe.toml", "--out", "run", *words, cwd=folder)
    distill("train", "recipe.toml", "--out", "two", *words, "--nproc", "2", cwd=folder)
    return folder


def test_without_a_text_student_no_captions_and_no_tokenizer_are_needed(home: Path) -> None:
    run = home / "run"
    assert not (run / "tokenizer.model").exists() and not (run / "bad-samples.jsonl").exists()
    about = json.loads((run / "run.json").read_text())
    assert about["parameters"].keys() == {"image", "heads"} and about["samples"] == 24
    assert not [name for name in load_file(run / "checkpoints/step-00000004/state.safetensors") if "text" in name]
    np.testing.assert_allclose(losses_of(home / "two"), losses_of(run), rtol=1e-4)


def test_without_a_text_student_the_export_has_no_text_tower_and_its_model_card_says_so(home: Path) -> None:
    distill("export", "run", "--out", "export", cwd=home)
    assert {path.name for path in (home / "export").iterdir()} == {"config.json", "image.safetensors", "README.md"}
    assert json.loads((home / "export" / "config.json").read_text())["text"] is None
    card = (home / "export" / "README.md").read_text()
    assert "| text tower | none: trained on images alone |" in card and "encode_text" not in card
    model, run = package.load(home / "export"), package.load(home / "run")
    image = picture("square", "blue", 1)
    assert torch.equal(model.encode_image([image]), run.encode_image([image]))
    for call in (lambda: model.encode_text(["a dog"]), lambda: model.zero_shot([image], ["a dog", "a cat"])):
        with pytest.raises(UserError, match="no text tower: it was trained on images alone"):
            call()


def test_without_a_text_student_a_run_resumes_with_the_same_losses(home: Path) -> None:
    words = [word for setting in (*IMAGE_STUDENT_ONLY, "checkpoint.every_steps=2") for word in ("--set", setting)]
    distill("train", "recipe.toml", "--out", "again", *words, cwd=home)
    (home / "again" / "checkpoints" / "latest").write_text("step-00000002")
    distill("train", "recipe.toml", "--out", "again", "--resume", *words, cwd=home)
    assert losses_of(home / "again") == losses_of(home / "run")


@pytest.mark.parametrize("objective", ["three_towers", "contrastive", "crd"])
def test_an_objective_that_compares_texts_is_refused_without_a_text_student(home: Path, objective: str) -> None:
    with pytest.raises(UserError, match="no text student. Add student.text, or choose an objective or terms without"):
        resolve(load(str(home / "recipe.toml"), ["student.text=false", f"objective.name={objective}"]))


class TwoOutputs(losses.Objective):
    """Reads two outputs of its teacher, and the patch tokens of the image student, which no other objective does."""

    @property
    def needs(self) -> losses.Needs:
        students = {"image": ("embedding", "tokens")}
        return losses.Needs(students=students, teachers=("embedding", "logits", "tokens"), gather=())

    def projection(self, teacher: losses.TeacherFacts, students: Mapping[str, losses.Widths]) -> nn.Module:
        return Patches(teacher, students["image"]["tokens"], students["image"]["embedding"])

    def __call__(self, embeddings: losses.Embeddings) -> dict[str, torch.Tensor]:
        (rows,) = embeddings.teachers
        names = ("pooled", "classes", "patches")
        parts = {name: (rows.local[name] - rows.local[f"teacher_{name}"]).square().mean() for name in names}
        own = embeddings.local["image_tokens"].square().mean()
        return {"loss": torch.stack(list(parts.values())).sum(), "own": own.detach()} | {
            name: value.detach() for name, value in parts.items()
        }


class Patches(nn.Module):
    """A linear layer for each output of the teacher."""

    def __init__(self, teacher: losses.TeacherFacts, tokens: int, width: int) -> None:
        super().__init__()
        self.pooled, self.classes = Linear(width, teacher.width), Linear(width, teacher.classes)
        self.patches = Linear(tokens, teacher.tokens)

    def forward(
        self, students: Mapping[str, Mapping[str, torch.Tensor]], teacher: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        image = students["image"]
        patches = self.patches(image["tokens"]).float().mean(dim=2), teacher["tokens"].mean(dim=2)
        return {
            "pooled": self.pooled(image["embedding"]).float(),
            "teacher_pooled": teacher["embedding"],
            "classes": self.classes(image["embedding"]).float(),
            "teacher_classes": teacher["logits"],
            "patches": patches[0],
            "teacher_patches": patches[1],
        }


@pytest.fixture
def two_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add :class:`TwoOutputs` as a file to the folder of objectives."""
    (tmp_path / "objectives").mkdir()
    (tmp_path / "objectives" / "two_outputs.py").write_text("from test_named_outputs import TwoOutputs as OBJECTIVE\n")
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path / "objectives")])
    yield
    sys.modules.pop("losses.objectives.two_outputs", None)


def test_an_objective_reads_several_teacher_outputs_online_or_from_the_cache(
    two_outputs: None, tmp_path: Path, pictures: Path
) -> None:
    """The losses are the same online and with a cache, which has one tensor per output in the same file."""
    from distill.training.start import start

    (tmp_path / "recipe.toml").write_text(RECIPE.format(shards=pictures))
    settings = ["student.text=false", "objective.name=two_outputs", "train.steps=3", "teacher.0.dtype=fp32"]
    settings += ["teacher.0.views=1", "data.crop=[1.0,1.0]"]
    for name, cache in (("cached", tmp_path / "cache"), ("live", "none")):
        recipe = load(str(tmp_path / "recipe.toml"), [*settings, f"teacher.0.cache={cache}"])
        assert start(recipe, tmp_path / name)
    np.testing.assert_allclose(losses_of(tmp_path / "cached"), losses_of(tmp_path / "live"), rtol=1e-4)
    first = json.loads((tmp_path / "live" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["own"] > 0 and all(first[name] > 0 for name in ("pooled", "classes", "patches"))
    (file,) = [load_file(path) for path in (tmp_path / "cache").glob("*.safetensors")]
    assert {name: tuple(value.shape) for name, value in file.items()} == {
        **{"embeddings": (1, 24, 1280), "crc32": (1, 24)},
        **{"logits": (1, 24, 1000), "logits.crc32": (1, 24)},
        **{"tokens": (1, 24, 4, 1280), "tokens.crc32": (1, 24)},
    }


def test_every_cached_output_equals_the_live_teachers(tmp_path: Path, pictures: Path) -> None:
    """Each output has its own checksums: a flipped bit in any of them is refused."""
    from distill.config import TeacherTable

    outputs = ("embedding", "logits")
    card, data = teachers.card(LITE0), Shards.open([str(pictures)])
    table = TeacherTable(name=LITE0, cache=str(tmp_path / "cache"), views=2, image_size=64, dtype="fp32")
    cache, live = ViewCache(table, card, Views((0.5, 0.9), True), outputs), teachers.load(card, 64, outputs)
    embed([cache], lambda k: live, MissingShards.find([cache], data), 0, id)
    separate = {name: teachers.load(card, 64, (name,)) for name in outputs}
    for i in (0, 7, 23):
        view = cache.views.draw(data.key(i), 1, (48, 48))
        pixels = view.render(decode(data.read(i)), 64)[None]
        row = cache.row(data, i, 1)
        assert row.keys() == separate.keys()
        for name, teacher in separate.items():
            torch.testing.assert_close(row[name], teacher(pixels)[name][0], rtol=1e-4, atol=1e-4)
    file = cache.file(pictures)
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    offsets = {name: about["data_offsets"] for name, about in json.loads(content[8:header]).items() if "_" not in name}
    for name in ("embeddings", "logits"):
        position = header + offsets[name][0] + 5
        file.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with pytest.raises(UserError, match="row 0 of view 0 is not what was written"):
            ViewCache(table, card, cache.views, outputs).row(data, 0, 0)
    with pytest.raises(UserError, match="output embedding\\+logits instead of embedding"):
        ViewCache(table, card, cache.views).missing(data)
    data.close()


COUNT = """
import json, sys, timm, losses, teachers
counts = {"student": 0, "teacher": 0, "teachers.load": 0, "objective": 0}
create, load, build = timm.create_model, teachers.load, losses.Objective.__init__

def counted_create(arch, *args, **kwargs):
    counts["student" if arch.startswith("vit") else "teacher"] += 1
    return create(arch, *args, **kwargs)

def counted_load(*args, **kwargs):
    counts["teachers.load"] += 1
    return load(*args, **kwargs)

def counted_build(self, **options):
    counts["objective"] += 1
    build(self, **options)

timm.create_model, teachers.load, losses.Objective.__init__ = counted_create, counted_load, counted_build
from distill.cli import main
sys.argv = ["distill", "train", "recipe.toml", "--out", sys.argv[1], *sys.argv[2:]]
main.main()
print(json.dumps(counts))
"""


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_a_training_builds_each_network_and_its_objective_once(recipe: Path, cache: str) -> None:
    """Counted in the process of a two-step training, from the command to the last step."""
    words = ["--set", "train.steps=2", "--set", f"teacher.0.cache={cache}"]
    result = subprocess.run(
        [sys.executable, "-c", COUNT, f"run-{cache}", *words],
        cwd=recipe.parent,
        env=dict(os.environ, PYTHONPATH=str(Path(package.__file__).parent.parent)),
        capture_output=True,
        text=True,
    )
    assert not result.returncode, result.stderr
    counts = json.loads(result.stdout.splitlines()[-1])
    assert counts == {"student": 1, "teacher": 1, "teachers.load": 1, "objective": 1}


def test_networks_are_built_once_and_cached_teachers_released(recipe: Path) -> None:
    networks = Networks(resolve(load(str(recipe))))
    assert networks.image() is networks.image() and networks.model(50) is networks.model(50)
    first = networks.teacher(0)
    assert networks.teacher(0) is first
    networks.release_teachers()
    assert networks.teacher(0) is not first
    assert [cache.outputs for cache in caches_of(networks.resolved)] == [("embedding",)]


def test_loading_an_export_imports_no_training_code(home: Path) -> None:
    if not (home / "export").exists():
        distill("export", "run", "--out", "export", cwd=home)
    code = (
        "import sys, distill\n"
        "distill.load('export')\n"
        "found = [name for name in sys.modules if name.startswith(('distill.training', 'deepspeed'))]\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    root = str(Path(package.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env=dict(os.environ, PYTHONPATH=root),
        capture_output=True,
        text=True,
    )
    assert not result.returncode, result.stderr


@pytest.mark.parametrize(
    "settings, said",
    [
        (["student.text={arch='none', dpeth=3}"], 'arch = "none" is no tower: leave out dpeth'),
        (["student.image={arch='teacher'}", "student.width=1280"], "nothing that ships would be trained"),
        (['objective={name="three_towers"}'], "has no text student"),
    ],
)
def test_settings_that_make_no_sense_without_a_text_student_are_refused(
    home: Path, settings: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        resolve(load(str(home / "recipe.toml"), [*IMAGE_STUDENT_ONLY, *settings]))


def test_an_image_model_cannot_be_evaluated_on_retrieval_and_says_why(home: Path, pictures: Path) -> None:
    with pytest.raises(UserError, match="no text tower: it was trained on images alone"):
        package.evaluate(home / "run", "retrieval", data=pictures)


def test_an_output_that_a_student_lacks_is_named_before_anything_else(two_outputs: None, recipe: Path) -> None:
    """A locked teacher as image tower gives embeddings only."""
    settings = ["objective.name=two_outputs", "student.image={arch='teacher', layers=1}"]
    networks = Networks(resolve(load(str(recipe), settings)))
    with pytest.raises(UserError, match="reads the output 'tokens' of the image student, which gives only embedding"):
        networks.check(None)


def test_a_text_tower_to_start_from_is_tried_before_the_caches_are_filled(recipe: Path, tmp_path: Path) -> None:
    export = Path(__file__).parent / "written_by_0.1.0" / "export"
    text = f"student.text={{arch='transformer', dim=32, depth=1, heads=2, context=8, init='{export}'}}"
    cache = f"teacher.0.cache={tmp_path / 'cache'}"
    words = ("--set", text, "--set", cache, "--set", "student.width=16")
    said = distill("train", recipe, "--out", tmp_path / "run", *words, status=2).stderr
    assert "weights to start from are of another size" in said or "another size" in said
    assert not (tmp_path / "cache").exists()


def test_a_cached_teacher_that_gave_first_weights_is_not_kept_while_training(recipe: Path) -> None:
    settings = ["student.image={arch='tf_efficientnet_lite0', init='teacher'}", "data.image_size=64"]
    networks = Networks(resolve(load(str(recipe), settings)))
    networks.model(50)
    first = networks.teacher(0)
    networks.release_teachers()
    assert networks.teacher(0) is not first
