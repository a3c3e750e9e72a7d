"""The moving average of the students' weights: its values, exactness through resuming, and that it is what ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPE, distill, losses_of, write_shards
from ranks import train_together
from safetensors.torch import load_file
from test_resume import back_to_step_3
from torch import nn

from distill.training.averaging import keep_average

DECAY = 0.6  # reached at the sixth update


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("ema")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    return folder


def students(run: Path, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "students.safetensors")


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_the_average_equals_its_definition_step_by_step(optimizer: type[torch.optim.Optimizer]) -> None:
    """In NumPy, from the weights after each step; a parameter without a gradient keeps none."""
    torch.manual_seed(0)
    used, unused = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2))
    built = optimizer([{"params": [used]}, {"params": [unused]}], lr=0.1)
    keep_average(built, DECAY)
    expected = used.detach().double().numpy().copy()
    for t in range(20):
        built.zero_grad()
        used.grad = torch.randn(4, 3)
        built.step()
        decay = min(DECAY, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * used.detach().double().numpy()
        np.testing.assert_allclose(built.state[used]["ema"], expected, rtol=1e-5, atol=1e-6)
    assert built.state[used]["ema_updates"] == 20 and "ema" not in built.state[unused]


def test_what_is_saved_is_the_average_of_the_weights_of_all_steps(home: Path) -> None:
    """Runs of 1 to 6 steps of one schedule give the weights of each step; the run with the average has the same."""
    plain = {home / f"plain-{n}": ["checkpoint.every_steps=1", "checkpoint.keep=6"] for n in (6,)}
    train_together(home, plain | {home / "ema": [f"train.ema={DECAY}"]}, nproc=1)
    assert losses_of(home / "ema") == losses_of(home / "plain-6"), "training itself is the same"
    steps = [students(home / "plain-6", n) for n in range(1, 7)]
    averaged = students(home / "ema")
    start = load_file(home / "ema" / "checkpoints" / "step-00000003" / "students.safetensors")
    for name in ("image.net.head.weight", "text.head.weight", "image.net.blocks.1.mlp.fc1.weight"):
        assert not torch.equal(averaged[name], steps[-1][name])
        # From the average of step 3 on, by the definition.
        value = start[name].double()
        for t in (3, 4, 5):
            decay = min(DECAY, (1 + t) / (10 + t))
            value = decay * value + (1 - decay) * steps[t][name].double()
        torch.testing.assert_close(averaged[name].double(), value, rtol=0, atol=1e-6)


CHANGES = [((1, 0), (2, 2)), ((2, 1), (1, 3)), ((2, 3), (1, 0)), ((2, 2), (2, 1))]


def test_the_average_goes_on_exactly_with_other_processes_and_stages(home: Path) -> None:
    train_together(home, {home / "whole": [f"train.ema={DECAY}"]}, nproc=1)
    expected = students(home / "whole")
    for (nproc, stage), (then, later) in CHANGES:
        first = home / f"first-{nproc}-{stage}-{then}-{later}"
        train_together(home, {first: [f"train.ema={DECAY}", f"zero.stage={stage}"]}, nproc)
        run = back_to_step_3(first, home / f"resumed-{nproc}-{stage}-{then}-{later}")
        train_together(home, {run: [f"train.ema={DECAY}", f"zero.stage={later}"]}, then, resume=True)
        for found in (students(first), students(run)):
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                if name.endswith(("in_proj_bias", "qkv.bias")):
                    continue  # a bias of keys has no gradient but rounding, which Adam enlarges
                torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5, msg=f"{run.name} {name}")


@pytest.mark.parametrize(
    "settings", [[], ["train.micro_batch=4"], ["zero.stage=2"]], ids=["plain", "pieces", "stage2"]
)
def test_a_resumed_average_is_the_same_bit_for_bit(home: Path, settings: list[str]) -> None:
    name = "-".join(settings) or "plain"
    settings = [f"train.ema={DECAY}", *settings]
    train_together(home, {home / f"once-{name}": settings}, nproc=1)
    run = back_to_step_3(home / f"once-{name}", home / f"again-{name}")
    train_together(home, {run: settings}, nproc=1, resume=True)
    once, again = students(home / f"once-{name}"), students(run)
    assert all(torch.equal(once[key], again[key]) for key in once) and once.keys() == again.keys()


def test_the_average_is_what_is_measured_exported_and_started_from(home: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "eval", (24,), first=500)
    options = ["--set", f"train.ema={DECAY}", "--set", f"data.eval={tmp_path / 'eval'}"]
    options += ["--set", 'evaluate=[{task="retrieval"}]']
    distill("train", "recipe.toml", "--out", tmp_path / "run", *options, cwd=home)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    found = json.loads(distill("evaluate", tmp_path / "run", "--task", "retrieval", "--json", "-").stdout)
    metrics = found["results"][0]["metrics"]
    assert metrics["mean_r10"] == pytest.approx(last["retrieval/mean_r10"], abs=1e-9)
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    averaged, shipped = students(tmp_path / "run"), load_file(tmp_path / "export" / "image.safetensors")
    name = "net.blocks.0.mlp.fc1.weight"
    own = next(value for key, value in shipped.items() if key.endswith(name.removeprefix("net.")))
    assert torch.equal(own, averaged[f"image.{name}"])
    initial = ["--init", tmp_path / "run", "--set", "optim.lr=1e-12", "--set", "train.steps=1"]
    distill("train", "recipe.toml", "--out", tmp_path / "next", *initial, cwd=home)
    torch.testing.assert_close(students(tmp_path / "next", 1)[f"image.{name}"], averaged[f"image.{name}"])


def test_an_average_cannot_be_added_later_nor_be_one_of_nothing(home: Path, tmp_path: Path) -> None:
    train_together(home, {home / "without": []}, nproc=1)
    changed = ["--resume", "--set", f"train.ema={DECAY}"]
    refused = distill("train", "recipe.toml", "--out", "without", *changed, cwd=home, status=2).stderr
    assert "was started with another train.ema" in refused
    for value in ("1", "-0.1"):
        refused = distill(
            "train", "recipe.toml", "--out", "x", "--set", f"train.ema={value}", cwd=home, status=2
        ).stderr
        assert "'train.ema' does not check out" in refused
    locked = [
        'student.image.locked=["patch_embed","cls_token","pos_embed","blocks","norm","attn_pool","fc_norm","head"]'
    ]
    locked += ["student.text=false", 'objective.terms=["fh"]', "train.ema=0.9"]
    options = [part for one in locked for part in ("--set", one)]
    refused = distill("train", "recipe.toml", "--out", "y", *options, cwd=home, status=2).stderr
    assert "all of them are locked" in refused or "has no part" in refused
