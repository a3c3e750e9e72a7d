"""Faults that a run detects and reports: non-finite steps, loss spikes, bad samples, stalled processes, full disks."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import RECIPE, SCRATCH, distill, lines_of, losses_of, wait_for_step, workers_of
from ranks import in_ranks, prepare_all, train_together

from distill.errors import Bad, UserError
from distill.recipe import load
from distill.training.health import Health
from distill.training.log import Journal
from launch.group import Group

SCRIPT = Path(sys.executable).with_name("distill")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("health")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    return folder


def train_with_nonfinite_steps(run: Path) -> bool:
    """In a process of a job: train with a model that has NaN or infinity at steps 3 and 4.

    At step 3 the rows of two samples are NaN in the forward; at step 4 a gradient is infinite in the backward.
    """
    import torch

    from distill.training import loop, model

    embed, calls = model.Model.image_outputs, 0

    class InfiniteGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0] * float("inf")

    def corrupted(self: Any, images: torch.Tensor, teachers: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        rows, calls = embed(self, images, teachers)["embedding"], calls + 1
        if calls == 3 and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            rows = rows.clone()
            rows[1:3] = float("nan")
        return {"embedding": InfiniteGradient.apply(rows) if calls == 4 else rows}

    model.Model.image_outputs = corrupted  # type: ignore[method-assign]
    try:
        return loop.train(run)
    finally:
        model.Model.image_outputs = embed  # type: ignore[method-assign]


def train_all_with_nonfinite_steps(runs: list[Path]) -> None:
    """The same with several runs; on standard error, a line with the run's name precedes its output."""
    from launch import group

    for run in runs:
        print(f"== {run.name}", file=sys.stderr, flush=True)
        try:
            train_with_nonfinite_steps(run)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr, flush=True)
    group.leave()


PLAIN = ("teacher=[]", "objective.name=contrastive")
NONFINITE = {f"stage{n}": (f"zero.stage={n}", f"optim.clip={n != 1:d}", "train.skip_nonfinite=2") for n in range(4)}
NONFINITE["stopped"] = ()


@pytest.fixture(scope="module")
def logs(home: Path) -> dict[str, str]:
    """The standard error of training the runs of ``NONFINITE`` in two processes, by run; only the first one logs."""
    runs = {home / name: (*PLAIN, *settings) for name, settings in NONFINITE.items()}
    prepare_all(home, runs, 2)
    first, _ = in_ranks(2, train_all_with_nonfinite_steps, list(runs), cwd=home)
    return dict(part.split("\n", 1) for part in first.split("== ")[1:])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_nonfinite_step_is_skipped_and_logged_with_its_samples(home: Path, logs: dict[str, str], stage: int) -> None:
    run = home / f"stage{stage}"
    events = [event for event in lines_of(run / "events.jsonl") if event["event"] == "not finite"]
    assert [event["step"] for event in events] == [3, 4]
    # The second and third of the eight samples of process 1.
    schedule = [line["samples"] for line in lines_of(run / "metrics.jsonl")]
    assert len(events[0]["keys"]) == 2 and len(events[1]["keys"]) == 16 and len(schedule) == 6
    assert events[0]["keys"] == keys_of_step(run, step=3)[9:11] and "gradient" in events[1]["what"]
    assert logs[run.name].count("was not finite") == 2
    found = lines_of(run / "metrics.jsonl")
    assert "loss" not in found[2] and all(line["loss"] < 10 for line in found[3:])


def keys_of_step(run: Path, step: int) -> list[str]:
    """The keys of a step's batch, from the order alone."""
    from distill.data.order import Order
    from distill.data.shards import Shards

    shards = Shards.load(run / "shards.safetensors")
    return [shards.key(i) for _, i in Order(shards.counts, seed=0).between((step - 1) * 16, step * 16)]


def test_a_nonfinite_step_stops_the_run_unless_it_may_be_skipped(home: Path, logs: dict[str, str]) -> None:
    assert "Error: Step 3 was not finite: the rows image" in logs["stopped"]
    first, second = keys_of_step(home / "stopped", step=3)[9:11]
    assert f"Its samples: {first}, {second}" in logs["stopped"] and "train.skip_nonfinite = 10" in logs["stopped"]


def health(tmp_path: Path, *settings: str, start: int = 0) -> Health:
    (tmp_path / "shards").mkdir(exist_ok=True)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(shards=tmp_path / "shards"))
    recipe = load(str(tmp_path / "recipe.toml"), settings)
    import torch

    return Health(tmp_path, recipe, 1000, start, Group(0, 1, torch.device("cpu")))


def test_bad_samples_are_logged_once_and_counted_across_a_resume(tmp_path: Path) -> None:
    own = health(tmp_path, "data.bad_samples=0.003")
    own.record_bad_samples(
        1, [Bad("a.tar", "x", "is torn"), Bad("a.tar", "x", "is torn"), Bad("b.tar", "x", "is torn")]
    )
    own.record_bad_samples(5, [Bad("a.tar", "y", "is torn")])
    assert [(e["step"], e["shard"], e["key"]) for e in lines_of(tmp_path / "bad-samples.jsonl")] == [
        *((1, "a.tar", "x"), (1, "b.tar", "x")),
        (5, "a.tar", "y"),
    ]
    again = health(tmp_path, "data.bad_samples=3", start=4)  # killed at step 5, resumed from step 4
    assert len(lines_of(tmp_path / "bad-samples.jsonl")) == 2
    again.record_bad_samples(5, [Bad("a.tar", "y", "is torn"), Bad("b.tar", "x", "is torn")])
    with pytest.raises(UserError, match="4 bad samples are more than the 3 .*sample 'z' of a.tar: is torn"):
        again.record_bad_samples(6, [Bad("a.tar", "z", "is torn")])


def test_a_journal_continues_after_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, 0, True)
    journal.append({"step": 1, "loss": 1.0})
    path.rename(tmp_path / "kept")
    path.symlink_to("/dev/full")  # every write to it fails with ENOSPC
    for step in (2, 3):
        journal.append({"step": step, "loss": 1.0})
    path.unlink()
    (tmp_path / "kept").rename(path)
    with path.open("a") as file:
        file.write('{"step": 3, "lo')  # a line that was written in part
    journal.append({"step": 4, "loss": float("nan"), "key": "a\u2028b"})
    assert capsys.readouterr().err.count("cannot be written") == 1
    again = Journal(path, 4, True)
    assert [line["step"] for line in again.earlier] == [1, 4] and again.earlier[1]["key"] == "a\u2028b"
    assert [line["step"] for line in lines_of(path)] == [1, 4]


def test_a_loss_spike_is_logged_with_its_samples_and_an_ordinary_loss_is_not(tmp_path: Path) -> None:
    own = health(tmp_path)
    for step in range(1, 60):
        loss = 4.0 - 0.02 * step + 0.05 * (step % 3)
        own.record_loss(step, 9.0 if step == 40 else loss, lambda: ["a", "b"])
    (event,) = lines_of(tmp_path / "events.jsonl")
    assert event["step"] == 40 and event["event"] == "spike" and event["keys"] == ["a", "b"]
    assert event["loss"] == 9.0 and 3 < event["usual"] < 4


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stalled_process_is_reported_within_a_minute_and_the_run_continues_when_it_resumes(
    home: Path, rank: int
) -> None:
    run = home / f"stalled{rank}"
    settings = (*PLAIN, "train.steps=40", "train.stall_seconds=4")
    options = ["--nproc", "2", *(word for one in settings for word in ("--set", one))]
    words = [str(w) for w in (SCRIPT, "train", "recipe.toml", "--out", run, *options)]
    process = subprocess.Popen(words, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log: list[tuple[float, str]] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: log.extend((time.monotonic(), x) for x in process.stderr or ()))
    reader.start()
    wait_for_step(run, 3, process)
    victim = workers_of(process.pid)[rank]
    victim.suspend()
    began = time.monotonic()
    while time.monotonic() - began < 60 and not any("Training waits" in line for _, line in log):
        time.sleep(0.2)
    victim.resume()
    process.wait(timeout=200)
    reader.join()
    process.stderr.close()
    waits = [(when - began, line) for when, line in log if "Training waits" in line]
    assert waits and waits[0][0] < 60, log
    assert f"process {rank} (" in waits[0][1] or (rank == 0 and "process 0 does not answer" in waits[0][1])
    assert process.returncode == 0
    train_together(home, {home / f"{run.name}-alone": settings}, 2)
    assert losses_of(run) == losses_of(home / f"{run.name}-alone")


def test_a_full_disk_stops_the_run_and_keeps_the_last_good_checkpoint(home: Path) -> None:
    """A limit on the size of files replaces the full disk: the same write fails."""
    run = home / "full"
    distill("train", "recipe.toml", "--out", run, *SCRATCH, "--set", "checkpoint.every_steps=2", cwd=home)
    whole = losses_of(run)
    (run / "checkpoints" / "latest").write_text("step-00000004")
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (200_000, 200_000))
    words = [str(w) for w in (SCRIPT, "train", "recipe.toml", "--out", run, *SCRATCH, "--resume")]
    result = subprocess.run(words, cwd=home, preexec_fn=limit, capture_output=True, text=True, timeout=200)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "checkpoint of step 6 could not be written" in result.stderr and "Make room" in result.stderr
    assert "step-00000004 is kept" in result.stderr
    assert (run / "checkpoints" / "latest").read_text() == "step-00000004"
    assert not list((run / "checkpoints").glob(".*"))
    distill("train", "recipe.toml", "--out", run, *SCRATCH, "--resume", cwd=home)
    assert losses_of(run) == whole


@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_process_ends_the_others(home: Path, rank: int) -> None:
    run = home / f"dead{rank}"
    options = [*SCRATCH, "--nproc", "2", "--set", "train.steps=200", "--set", "checkpoint.every_steps=5"]
    words = [str(w) for w in (SCRIPT, "train", "recipe.toml", "--out", run, *options)]
    process = subprocess.Popen(words, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_step(run, 7, process)
    own = workers_of(process.pid)
    os.kill(own[rank].pid, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and f"--resume --out {run}" in error, error
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in own.values())
