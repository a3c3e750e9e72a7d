"""Several processes on this machine, and what DeepSpeed is told: all must train what one process trains.

Importing torch takes a process most of its life here, so one pair of processes trains all variants but the
plain one, which goes through the command line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import RECIPE, distill, losses_of
from ranks import train_together
from safetensors.torch import load_file

VARIANTS = {
    "stage1": ("zero.stage=1",),
    "stage2": ("zero.stage=2",),
    "stage3": ("zero.stage=3",),
    "bf16-stage0": ("train.precision=bf16",),
    "bf16-stage2": ("train.precision=bf16", "zero.stage=2"),
    "adafactor": ("optim.name=adafactor",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A folder with a recipe, and modules named like ours that must not be imported in their place."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    for name in ("losses.py", "launch.py"):
        (folder / name).write_text('raise SystemExit("shadowed")\n')
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run of one process."""
    distill("train", "recipe.toml", "--out", "alone", cwd=folder)
    return folder / "alone"


@pytest.fixture(scope="module")
def pair(folder: Path, alone: Path) -> Path:
    """The run of two processes, at stage 0; by the installed command, which meets the folder's modules cold."""
    words = ("train", "recipe.toml", "--out", "pair", "--nproc", "2", "--set", "zero.stage=0")
    script = Path(sys.executable).with_name("distill")
    result = subprocess.run([script, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout
    return folder / "pair"


@pytest.fixture(scope="module")
def variants(folder: Path) -> Path:
    """A folder with the run of every variant, trained by two processes."""
    base = folder / "several runs"  # with a space
    train_together(folder, {base / name: overrides for name, overrides in VARIANTS.items()}, 2)
    return base


def trained_by(run: Path) -> tuple[int, int, bool]:
    """Processes, ZeRO stage and whether in bf16: what DeepSpeed's engine said when the last checkpoint was made."""
    made_by = json.loads((run / "checkpoints/step-00000006/checkpoint.json").read_text())["made_by"]
    return made_by["processes"], made_by["zero_stage"], made_by["autocast"]


def test_a_users_losses_py_is_harmless(pair: Path) -> None:
    """The command and DeepSpeed's launcher were started beside the user's modules, and imported ours."""
    assert len(losses_of(pair)) == 6


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_train_the_same_model_as_one(alone: Path, stage: int, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue("variants") / f"stage{stage}" if stage else request.getfixturevalue("pair")
    assert trained_by(alone) == (1, 0, False) and trained_by(run) == (2, stage, False)
    assert losses_of(run) == pytest.approx(losses_of(alone), abs=1e-4)
    # What ships is whole, also where every process held a part of it only.
    expected, found = (load_file(r / "checkpoints/step-00000006/students.safetensors") for r in (alone, run))
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-3), name


@pytest.mark.parametrize("stage", [0, 2])
def test_bf16_stays_close_to_fp32(alone: Path, variants: Path, stage: int) -> None:
    run = variants / f"bf16-stage{stage}"
    assert trained_by(run) == (2, stage, True)
    assert losses_of(run) == pytest.approx(losses_of(alone), abs=5e-2)
    assert losses_of(run) != pytest.approx(losses_of(alone), abs=1e-5)  # or nothing was computed in bf16


def test_adafactor_trains(alone: Path, variants: Path) -> None:
    losses, adamw = losses_of(variants / "adafactor"), losses_of(alone)
    assert losses[0] == pytest.approx(adamw[0], abs=1e-4) and losses[-1] < losses[0]
    assert losses[1:] != pytest.approx(adamw[1:], abs=1e-4)  # it is another optimiser


def test_adafactor_is_refused_where_zero_flattens_parameters(folder: Path) -> None:
    choice = ("--set", "optim.name=adafactor", "--set", "zero.stage=1")
    error = distill("train", "recipe.toml", "--out", "refused", *choice, cwd=folder, status=2).stderr
    assert error.startswith("Error: ") and error.count("\n") == 1 and "zero.stage = 0" in error
    assert not (folder / "refused").exists()


TWICE = """
import os
from pathlib import Path

import torch.distributed

from distill.recipe import load
from distill.training.start import start

before = dict(os.environ)
for stage in (3, 0):
    assert start(load("recipe.toml", [f"zero.stage={stage}"]), Path(f"twice-{stage}"))
    changed = {name for name, _ in before.items() ^ os.environ.items()}
    assert not changed, f"after stage {stage} the environment differs: {changed}"
    assert not torch.distributed.is_initialized()
"""


def test_training_twice_in_a_process_leaves_its_environment_as_it_was(folder: Path, alone: Path) -> None:
    """From Python, without a launcher; nor does a process group stay behind."""
    # Imports of this process may have set it already, and it would show no change then.
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    command = [sys.executable, "-P", "-c", TWICE]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for stage in (3, 0):
        assert losses_of(folder / f"twice-{stage}") == pytest.approx(losses_of(alone), abs=1e-4)


BOUNDED = """
import json, sys
import torch
from launch import group, zero
from launch.settings import deepspeed_settings

alone = group.join()
import deepspeed

class Rising(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.full((1,), 6.0))
        self.other = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.other(x).sum() - self.number.sum()

for stage in range(4):
    settings = deepspeed_settings(batch_size=1, world=1, pieces=1, stage=stage, precision="fp32", clip=0.0)
    model = Rising()
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), config=settings
    )
    seen = []
    for _ in range(3):
        engine.backward(engine(torch.ones(1, 3)))
        engine.step()
        zero.clamp_parameter(model.number, 5.0)
        with zero.full_parameters(model):
            seen.append(round(float(model.number), 4))
    print("found", json.dumps([stage, seen]))
    engine.destroy()
group.leave()
"""


def test_a_parameter_is_kept_below_its_bound_at_every_stage(tmp_path: Path) -> None:
    """The optimiser's own copy too: without that, the next step would start from where it was. SGD adds 0.1 a step."""
    (tmp_path / "bounded.py").write_text(BOUNDED)
    result = subprocess.run([sys.executable, "bounded.py"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = [line.removeprefix("found ") for line in result.stdout.splitlines() if line.startswith("found ")]
    found = dict(map(json.loads, lines))
    assert found == dict.fromkeys((0, 1, 2, 3), [5.0, 5.0, 5.0])
