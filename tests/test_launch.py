"""Several processes on this machine, and what DeepSpeed is told: each must train what one process trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isfinite
from pathlib import Path

import pytest
from conftest import RECIPE, distill, losses_of

Train = Callable[..., list[float]]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Train:
    """Train with these arguments, once for all tests that ask for the same, and return the losses.

    It happens in a folder with modules that are named like ours and must not be imported in their place.
    """
    folder = tmp_path_factory.mktemp("launch")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    for name in ("losses.py", "launch.py"):
        (folder / name).write_text('raise SystemExit("shadowed")\n')

    @cache
    def run(*arguments: str) -> list[float]:
        out = "run" + "".join(arguments).replace("--", "-")
        distill("train", "recipe.toml", "--out", out, *arguments, cwd=folder)
        return losses_of(folder / out)

    return run


def test_a_users_losses_py_is_harmless(train: Train) -> None:
    """The command, DeepSpeed's launcher and the processes it starts all run beside the user's modules."""
    assert len(train("--nproc", "2", "--set", "zero.stage=0")) == 6


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_train_the_same_model_as_one(train: Train, stage: int) -> None:
    several = train("--nproc", "2", "--set", f"zero.stage={stage}")
    assert several == pytest.approx(train(), abs=1e-4)


@pytest.mark.parametrize("stage", [0, 2])
def test_bf16_stays_close_to_fp32(train: Train, stage: int) -> None:
    losses = train("--set", "train.precision=bf16", "--set", f"zero.stage={stage}")
    assert losses == pytest.approx(train(), abs=5e-2)
    assert losses != train()  # or else nothing was computed in bf16


def test_adafactor_trains(train: Train) -> None:
    losses = train("--set", "optim.name=adafactor")
    assert all(map(isfinite, losses)) and losses[-1] < losses[0]
    assert losses[0] == train()[0] and losses[1:] != train()[1:]


def test_adafactor_is_refused_where_parameters_are_flattened(recipe: Path, tmp_path: Path) -> None:
    choice = ("--set", "optim.name=adafactor", "--set", "zero.stage=1")
    error = distill("train", recipe, "--out", tmp_path / "run", *choice, status=2).stderr
    assert error.startswith("Error: ") and error.count("\n") == 1 and "zero.stage = 0" in error
    assert not (tmp_path / "run").exists()
