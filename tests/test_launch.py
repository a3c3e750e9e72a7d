"""Several processes on this machine and several DeepSpeed settings: all must train the same model as one process.

Importing torch takes most of a process's time here, so one pair of processes trains all variants except the
default one, which goes through the command line.
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
    """A folder with a recipe, and modules named like our packages, which must not be imported instead of ours."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    for name in ("losses.py", "launch.py"):
        (folder / name).write_text('raise SystemExit("shadowed")\n')
    return folder


@pytest.fixture(scope="module")
def single(folder: Path) -> Path:
    """The run of one process."""
    distill("train", "recipe.toml", "--out", "alone", cwd=folder)
    return folder / "alone"


@pytest.fixture(scope="module")
def pair(folder: Path, single: Path) -> Path:
    """The run of two processes, at stage 0, by the installed command: it starts with no module imported."""
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
    """Number of processes, ZeRO stage and whether in bf16, as DeepSpeed's engine reported for the last checkpoint."""
    made_by = json.loads((run / "checkpoints/step-00000006/checkpoint.json").read_text())["made_by"]
    return made_by["processes"], made_by["zero_stage"], made_by["autocast"]


def test_modules_of_the_users_folder_do_not_shadow_our_packages(pair: Path) -> None:
    """The command and DeepSpeed's launcher were started in the folder with those modules, and imported ours."""
    assert len(losses_of(pair)) == 6


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_train_the_same_model_as_one(single: Path, stage: int, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue("variants") / f"stage{stage}" if stage else request.getfixturevalue("pair")
    assert trained_by(single) == (1, 0, False) and trained_by(run) == (2, stage, False)
    assert losses_of(run) == pytest.approx(losses_of(single), abs=1e-4)
    # The saved students are complete, even if every process held only a part of the parameters.
    expected, found = (load_file(r / "checkpoints/step-00000006/students.safetensors") for r in (single, run))
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-3), name


@pytest.mark.parametrize("stage", [0, 2])
def test_bf16_stays_close_to_fp32(single: Path, variants: Path, stage: int) -> None:
    run = variants / f"bf16-stage{stage}"
    assert trained_by(run) == (2, stage, True)
    assert losses_of(run) == pytest.approx(losses_of(single), abs=5e-2)
    assert losses_of(run) != pytest.approx(losses_of(single), abs=1e-5)  # equal only if nothing was computed in bf16


def test_adafactor_lowers_the_loss_and_differs_from_adamw(single: Path, variants: Path) -> None:
    losses, adamw = losses_of(variants / "adafactor"), losses_of(single)
    assert losses[0] == pytest.approx(adamw[0], abs=1e-4) and losses[-1] < losses[0]
    assert losses[1:] != pytest.approx(adamw[1:], abs=1e-4)  # really another optimiser


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


def test_training_twice_in_a_process_leaves_its_environment_as_it_was(folder: Path, single: Path) -> None:
    """From Python, without a launcher; nor does a process group stay behind."""
    # Imports of this process may have set it already, and it would show no change then.
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    command = [sys.executable, "-P", "-c", TWICE]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for stage in (3, 0):
        assert losses_of(folder / f"twice-{stage}") == pytest.approx(losses_of(single), abs=1e-4)


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
    """ZeRO's copy of the parameter too, from which the next step would otherwise start. SGD adds 0.1 per step."""
    (tmp_path / "bounded.py").write_text(BOUNDED)
    result = subprocess.run([sys.executable, "bounded.py"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = [line.removeprefix("found ") for line in result.stdout.splitlines() if line.startswith("found ")]
    found = dict(map(json.loads, lines))
    assert found == dict.fromkeys((0, 1, 2, 3), [5.0, 5.0, 5.0])
