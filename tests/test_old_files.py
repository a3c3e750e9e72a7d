"""Files of earlier versions are still read: a run, teacher caches and an export of version 0.1.0.

``tests/written_by_0.1.0`` was written by that version in the folder /tmp/distill-0.1.0: a run of 6 steps, with the
checkpoint of step 3 only, and metrics.jsonl of all 6 steps. These files must never be regenerated.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import distill, evaluated, losses_of
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import distill as package
from distill.data.index import file_stamp, load_stored_index
from distill.data.indexes import read_index
from distill.data.shards import Shards
from distill.lookup import resolve
from distill.recipe import load, parse
from distill.rules import Rules
from distill.training.caches import caches_of

WRITTEN, HOME = Path(__file__).parent / "written_by_0.1.0", Path("/tmp/distill-0.1.0")
IMAGES = [Image.new("RGB", (20, 30), colour) for colour in ("red", "green", "blue")]


@pytest.fixture(scope="module")
def old() -> Iterator[Path]:
    """The files, copied to the folder where they were written, since they contain absolute paths."""
    shutil.rmtree(HOME, ignore_errors=True)
    shutil.copytree(WRITTEN, HOME)
    for shard in (HOME / "shards").glob("*.tar"):
        with safe_open(f"{shard}.index", framework="numpy") as file:
            size, modified = json.loads(file.metadata()["stamp"])
        assert shard.stat().st_size == size
        os.utime(shard, ns=(modified, modified))  # git stores no times, and an index is valid for one time only
    yield HOME
    shutil.rmtree(HOME)


def test_its_indexes_are_made_again_with_the_same_samples(old: Path) -> None:
    """Those of that version do not say which members belong to no sample."""
    for shard, count in (("train-000000.tar", 10), ("train-000001.tar", 6)):
        path = old / "shards" / shard
        stored = path.with_name(f"{shard}.index")
        with safe_open(stored, framework="numpy") as file:
            keys, members = json.loads(file.get_tensor("keys").tobytes()), file.get_tensor("members")
        assert load_stored_index(stored, path, file_stamp(path)) is None
        index = read_index(path)
        assert len(index) == count and not index.faults and not index.leftovers
        assert list(index.keys) == keys and np.array_equal(index.members, members)
        assert load_stored_index(stored, path, file_stamp(path)) is not None


def test_its_teacher_caches_are_complete(old: Path) -> None:
    recipe = load(str(old / "recipe.toml"))
    logits = {"data": {"train": [str(old / "shards")]}, "objective": {"name": "function_matching"}}
    teacher = {"name": "packaged/efficientnet_lite0", "image_size": 32, "cache": str(old / "logits-cache")}
    data = Shards.open(recipe.data.train)
    for resolved, output, width in (
        (resolve(recipe, Rules.of_run({})), "embedding", 1280),
        (resolve(parse(logits | {"teacher": [teacher]})), "logits", 1000),
    ):
        (cache,) = caches_of(resolved)
        assert cache.missing(data) == [] and cache.row(data, 3, 0)[output].shape == (width,)
    data.close()


def test_its_run_resumes_with_the_same_losses_as_then(old: Path) -> None:
    """From the checkpoint of step 3, with the old cache, which is first compared with the live teacher."""
    then, caches = losses_of(old / "run"), {p: p.stat().st_mtime_ns for p in old.rglob("teacher-cache/*/*")}
    assert len(then) == 6 and caches
    log = distill("train", old / "recipe.toml", "--out", old / "run", "--resume").stderr
    assert "8 cached embeddings compared" in log and "The teacher caches need" not in log
    assert losses_of(old / "run") == pytest.approx(then, rel=1e-5)
    assert {p: p.stat().st_mtime_ns for p in old.rglob("teacher-cache/*/*")} == caches
    images = package.load(old / "run").encode_image(IMAGES)
    torch.testing.assert_close(images, load_file(old / "embeddings.safetensors")["run_image"], rtol=0, atol=1e-4)


def test_its_export_gives_the_same_embeddings_as_then(old: Path) -> None:
    then = load_file(old / "embeddings.safetensors")
    export = package.load(old / "export")
    torch.testing.assert_close(export.encode_image(IMAGES), then["image"], rtol=0, atol=1e-5)
    texts = export.encode_text(["a red circle", "ein Kreis, rot"])
    torch.testing.assert_close(texts, then["text"], rtol=0, atol=1e-5)
    assert evaluated(old / "export", "--task", "retrieval", "--data", old / "shards")["images"] == 16
