"""The Python functions: as a notebook uses them, twice in one process, and with several processes."""

from __future__ import annotations

import csv
import importlib
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPE, losses_of, picture

import distill
from distill.recipe import load
from launch.launchers.local import Local

SETTINGS = ["train.steps=2", "checkpoint.every_steps=1"]


def test_a_notebook_packs_embeds_trains_exports_evaluates_and_loads(tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for i in range(24):
            shape = ("circle", "square", "cross")[i % 3]
            picture(shape, "red", i).save(tmp_path / f"{i}.png")
            rows.writerow([f"{i}.png", f"a red {shape} {i}"])
    shards = distill.pack(tmp_path / "table.csv", tmp_path / "shards", per_shard=12)
    assert [path.name for path in shards] == ["train-000000.tar", "train-000001.tar"]
    (tmp_path / "recipe.toml").write_text(RECIPE.format(shards=tmp_path / "shards"))
    importlib.import_module("timm")  # it imports torch's compiler, which may set a variable of its own
    cache, before = tmp_path / "cache", dict(os.environ)
    done = distill.embed_teachers(tmp_path / "recipe.toml", cache)
    assert done["folders"] == [str(cache)] and done["audits"]["packaged/efficientnet_lite0"]["rows"] == 8
    settings = [*SETTINGS, f"teacher.0.cache={cache}"]
    first = distill.train(tmp_path / "recipe.toml", tmp_path / "first", overrides=settings)
    assert first == distill.Training(tmp_path / "first", True)
    recipe = load(str(tmp_path / "recipe.toml"), settings)
    assert distill.train(recipe, tmp_path / "second").complete, "twice in one process"
    both = distill.train(recipe, str(tmp_path / "both"), launcher=Local(nproc=2))
    assert both.complete and not torch.distributed.is_initialized() and dict(os.environ) == before
    assert losses_of(tmp_path / "second") == losses_of(tmp_path / "first")
    np.testing.assert_allclose(losses_of(both.run), losses_of(tmp_path / "first"), rtol=1e-4)
    (tmp_path / "first" / "checkpoints" / "latest").write_text("step-00000001")
    assert distill.train(recipe, tmp_path / "first", resume=True).complete
    assert losses_of(tmp_path / "second") == losses_of(tmp_path / "first")
    assert distill.export(tmp_path / "first", tmp_path / "export") == tmp_path / "export"
    assert distill.evaluate(tmp_path / "export", "retrieval", data=str(tmp_path / "shards"))["images"] == 24
    assert distill.load(tmp_path / "export").encode_text(["a red circle"]).shape == (1, 32)


def test_the_functions_are_typed_and_documented() -> None:
    functions = [getattr(distill, name) for name in distill.__all__ if name not in ("Study", "Training", "UserError")]
    assert len(functions) == 8
    for function in functions:
        signature = inspect.signature(function)
        assert function.__doc__ and "Raises:" in function.__doc__
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_mistakes_are_one_kind_of_error(tmp_path: Path) -> None:
    for call in (
        lambda: distill.train("three_tower", tmp_path / "run"),
        lambda: distill.train(load("scratch", ["data.train=x"]), tmp_path / "run", overrides=["train.steps=1"]),
        lambda: distill.embed_teachers("scratch", overrides=["data.train=x"]),
        lambda: distill.evaluate(tmp_path, "retrieval"),
        lambda: distill.export(tmp_path, tmp_path / "out"),
        lambda: distill.load(tmp_path),
        lambda: distill.pack(tmp_path / "table.xls", tmp_path / "out"),
    ):
        with pytest.raises(distill.UserError):
            call()
