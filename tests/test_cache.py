"""The teacher cache: row-aligned, the live teacher's numbers, and refused when it is of something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import distill, write_shards

import teachers
from distill.config import Teacher
from distill.data.cache import Cache
from distill.data.embedding import Todo, embed
from distill.data.shards import Shards
from distill.data.views import Views, decode
from distill.errors import UserError

VIEWS = Views((0.5, 0.9), True)
CARD = teachers.card("packaged/efficientnet_lite0")


def table(folder: Path, **changes: object) -> Teacher:
    return Teacher.model_validate(
        {"name": CARD.name, "cache": str(folder), "views": 3, "image_size": 64, "dtype": "fp32"} | changes
    )


def make(
    cache: Cache,
    teacher: teachers.Teacher,
    data: Shards,
    workers: int = 0,
    tick: Callable[[int], object] = lambda n: n,
) -> None:
    """Embed what one cache lacks."""
    embed([cache], lambda k: teacher, Todo.of([cache], data), workers, tick)


@pytest.fixture(scope="module")
def teacher() -> teachers.Teacher:
    return teachers.load(CARD)


@pytest.fixture
def data(tmp_path: Path) -> Shards:
    write_shards(tmp_path / "shards", (5, 4))
    return Shards.of([str(tmp_path / "shards")])


def test_every_row_and_view_is_what_the_live_teacher_gives(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    done: list[int] = []
    cache = Cache(table(tmp_path / "cache"), CARD, VIEWS)
    assert [len(index) for index in cache.missing(data)] == [5, 4]
    make(cache, teacher, data, workers=1, tick=done.append)
    assert sum(done) == 9 and cache.missing(data) == []
    for i in range(9):
        image = decode(data.read(i))
        for view in range(3):
            pixels = VIEWS.draw(data.key(i), view, image.size).render(image, 64, "bicubic")
            assert torch.allclose(cache.row(data, i, view), teacher(pixels[None])[0], rtol=1e-4, atol=1e-4)
    data.close()


@pytest.mark.parametrize(("dtype", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_smaller_dtypes_stay_close(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher, dtype: str, error: float
) -> None:
    exact = Cache(table(tmp_path / "exact", views=1), CARD, VIEWS)
    small = Cache(table(tmp_path / "small", views=1, dtype=dtype), CARD, VIEWS)
    for cache in (exact, small):
        make(cache, teacher, data)
    a, b = (torch.stack([c.row(data, i, 0) for i in range(9)]) for c in (exact, small))
    assert (a - b).norm() / a.norm() < error
    assert (torch.nn.functional.cosine_similarity(a, b) >= 0.999).all()
    file = small.file(data.indexes[0].path)
    assert file.stat().st_size < exact.file(data.indexes[0].path).stat().st_size
    data.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"views": 2}, "views 3 instead of 2"),
        ({"image_size": 96}, "image_size 64 instead of 96"),
        ({"dtype": "fp16"}, "dtype fp32 instead of fp16"),
    ],
)
def test_another_folder_is_refused_and_the_difference_named(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher, change: dict[str, object], named: str
) -> None:
    make(Cache(table(tmp_path / "cache"), CARD, VIEWS), teacher, data)
    with pytest.raises(UserError, match=named):
        Cache(table(tmp_path / "cache", **change), CARD, VIEWS).missing(data)
    with pytest.raises(UserError, match="crop"):
        Cache(table(tmp_path / "cache"), CARD, Views((0.1, 0.9), True)).missing(data)
    data.close()


def test_changed_shards_weights_and_damage_are_refused(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    cache = Cache(table(tmp_path / "cache"), CARD, VIEWS)
    make(cache, teacher, data)
    first = cache.file(data.indexes[0].path)
    whole = first.read_bytes()
    first.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="damaged"):
        Cache(table(tmp_path / "cache"), CARD, VIEWS).missing(data)
    first.write_bytes(whole)

    write_shards(tmp_path / "shards", (5, 4), first=100)
    changed = Shards.of([str(tmp_path / "shards")])
    with pytest.raises(UserError, match="its content has changed"):
        Cache(table(tmp_path / "cache"), CARD, VIEWS).missing(changed)

    first.unlink()
    note = first.parent / "teacher.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"weights": "others"}))
    with pytest.raises(UserError, match="other weights"):
        make(Cache(table(tmp_path / "cache"), CARD, VIEWS), teacher, data)
    data.close()


def test_the_command_fills_a_cache_that_training_then_uses_alone(tmp_path: Path, recipe: Path, shards: Path) -> None:
    result = distill("teachers", "embed", recipe, "--out", tmp_path / "cache", "--set", "teacher.0.views=1")
    assert result.stdout.split() == [str(tmp_path / "cache")]
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    assert len(stamps) == 3
    settings = [f"teacher.0.cache={tmp_path / 'cache'}", "teacher.0.views=1", "train.steps=1"]
    distill("train", recipe, "--out", tmp_path / "run", *(part for s in settings for part in ("--set", s)))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == stamps
    shutil.rmtree(tmp_path / "run")
    refused = distill(
        *("train", recipe, "--out", tmp_path / "run", "--set", settings[0], "--set", "teacher.0.views=2"), status=2
    )
    assert "views 1 instead of 2" in refused.stderr and not (tmp_path / "run").exists()
