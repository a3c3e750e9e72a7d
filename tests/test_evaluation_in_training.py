"""Evaluation while training: the same numbers as afterwards, the same training as without, also killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLOURS, RECIPE, SCRATCH, SHAPES, distill, encoded, evaluated, losses_of, picture, write_tar
from safetensors.numpy import load_file

import distill as package
from distill.errors import UserError

COMMAND = (sys.executable, "-c", "from distill.cli.main import main; main()")
EVALUATE = """
[[evaluate]]
task = "retrieval"
every = 2
best = "mean_r10"

[[evaluate]]
task = "knn"
every = 3
k = 3
train = "{train}"

[[evaluate]]
task = "zero_shot"
templates = "name"
"""


def write_labelled(path: Path, numbers: range) -> Path:
    members = []
    for n in numbers:
        shape, colour = SHAPES[n % 4], COLOURS[n // 4 % 4]
        members += [
            (f"{n:05d}.png", encoded(picture(shape, colour, n))),
            (f"{n:05d}.txt", f"a {colour} {shape}".encode()),
        ]
        members.append((f"{n:05d}.json", json.dumps({"label": n % 4, "class": shape}).encode()))
    return write_tar(path, members)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with three evaluations, and a run of it."""
    folder = tmp_path_factory.mktemp("in-training")
    write_labelled(folder / "train.tar", range(48))
    write_labelled(folder / "test.tar", range(48, 75))  # not a multiple of the processes
    recipe = RECIPE.format(shards=folder / "train.tar").replace(
        f'train = "{folder / "train.tar"}"', f'train = "{folder / "train.tar"}"\neval = "{folder / "test.tar"}"'
    )
    (folder / "plain.toml").write_text(recipe)
    (folder / "recipe.toml").write_text(recipe + EVALUATE.format(train=folder / "train.tar"))
    distill("train", "recipe.toml", "--out", "run", *SCRATCH, cwd=folder)
    return folder


def curve(run: Path) -> dict[int, dict[str, float]]:
    """The evaluations in a run's metrics.jsonl, by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["evaluate"] for line in lines if "evaluate" in line}


def test_each_task_is_made_when_it_is_due(home: Path) -> None:
    found = {step: {name.split("/")[0] for name in values} for step, values in curve(home / "run").items()}
    assert found == {2: {"retrieval"}, 3: {"knn"}, 4: {"retrieval"}, 6: {"retrieval", "knn", "zero_shot"}}


def test_the_last_numbers_are_those_of_the_finished_run(home: Path) -> None:
    last = curve(home / "run")[6]
    for task, words in (("retrieval", ()), ("knn", ("--set", "k=3")), ("zero_shot", ("--templates", "name"))):
        after = evaluated("run", "--task", task, *words, cwd=home)["metrics"]
        assert {name: last[f"{task}/{name}"] for name in after} == pytest.approx(after, abs=1e-6)


def test_training_is_the_same_with_and_without_evaluations(home: Path) -> None:
    distill("train", "plain.toml", "--out", "plain", *SCRATCH, cwd=home)
    assert losses_of(home / "plain") == losses_of(home / "run")
    names = ("model", "optimizer")
    own, other = (
        load_file(home / run / "checkpoints" / "step-00000006" / "state.safetensors") for run in ("run", "plain")
    )
    assert own.keys() == other.keys() and {name.split("/")[0] for name in own} >= set(names)
    for name, value in own.items():
        np.testing.assert_array_equal(value, other[name])


def test_the_numbers_are_on_the_board_too(home: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(home / "run" / "tensorboard"))
    board.Reload()
    found = {event.step: event.value for event in board.Scalars("retrieval/mean_r10")}
    expected = {step: values["retrieval/mean_r10"] for step, values in curve(home / "run").items() if step != 3}
    assert found == pytest.approx(expected)


def test_the_best_checkpoint_is_kept_and_can_be_used(home: Path) -> None:
    values = {step: one["retrieval/mean_r10"] for step, one in curve(home / "run").items() if step != 3}
    best = max(values, key=lambda step: (values[step], -step))  # the first one with the best value
    (folder,) = (home / "run" / "best").glob("step-*")
    assert folder.name == f"step-{best:08d}"
    assert json.loads((folder / "checkpoint.json").read_text())["value"] == pytest.approx(values[best])
    assert evaluated("run", "--task", "retrieval", "--best", cwd=home)["metrics"]["mean_r10"] == pytest.approx(
        values[best]
    )
    distill("export", "run", "--best", "--out", "best-export", cwd=home)
    found = package.evaluate(home / "best-export", "retrieval", data=str(home / "test.tar"))
    assert found["metrics"]["mean_r10"] == pytest.approx(values[best])


@pytest.mark.parametrize("words", [("--nproc", "2"), ("--nproc", "2", "--set", "zero.stage=3")])
def test_two_processes_find_what_one_does(home: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    distill("train", "recipe.toml", "--out", tmp_path / "run", *SCRATCH, *words, cwd=home)
    expected, found = curve(home / "run"), curve(tmp_path / "run")
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        # One image ranked otherwise, as sums over two processes round differently, is 1 of 27.
        assert found[step] == pytest.approx(values, abs=1.5 / 27), step
    assert (tmp_path / "run" / "best" / "latest").is_file()


def test_killed_and_resumed_it_gives_the_same_curve(home: Path, tmp_path: Path) -> None:
    words = [str(w) for w in ("train", home / "recipe.toml", "--out", tmp_path / "run", *SCRATCH)]
    words += ["--set", "checkpoint.every_steps=2"]
    process = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while not (tmp_path / "run" / "checkpoints" / "step-00000002").exists():
        assert process.poll() is None and time.monotonic() - begun < 300
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    distill(*words, "--resume", cwd=tmp_path)
    assert curve(tmp_path / "run") == curve(home / "run")
    assert losses_of(tmp_path / "run") == losses_of(home / "run")
    (ours,), (theirs,) = ((folder / "best").glob("step-*") for folder in (tmp_path / "run", home / "run"))
    assert ours.name == theirs.name


def test_a_run_resumed_before_its_best_checkpoint_finds_it_again(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-00000003")
    distill("train", home / "recipe.toml", "--out", tmp_path / "run", *SCRATCH, "--resume", cwd=home)
    assert curve(tmp_path / "run") == curve(home / "run")
    (ours,), (theirs,) = ((folder / "best").glob("step-*") for folder in (tmp_path / "run", home / "run"))
    assert ours.name == theirs.name


def test_evaluations_may_change_when_a_run_is_resumed(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-00000003")
    distill("train", home / "plain.toml", "--out", tmp_path / "run", *SCRATCH, "--resume", cwd=home)
    assert set(curve(tmp_path / "run")) == {2, 3}


@pytest.mark.parametrize(
    "words, said",
    [
        (("evaluate.0.task=retrival",), "Did you mean 'retrieval'?"),
        (("evaluate.1.neighbours=3",), "has no option 'neighbours'"),
        (("evaluate.1.best=accuracy",), "only one of evaluate may set best"),
        (("evaluate.0.data=nowhere.tar",), "The evaluation 'retrieval' cannot be made: The shard .*nowhere.tar"),
        (("evaluate.1.label=nothing",), "The evaluation 'knn' cannot be made: No sample has a class"),
        (("data.eval=[]",), "There is nothing to evaluate on"),
        (('log.to=["wandbb"]',), "Did you mean 'wandb'?"),
        (('log.to=["mlflow"]', "log.mlflow=3"), "log.mlflow is no table"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_said_before_training(
    home: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        package.train(home / "recipe.toml", tmp_path / "run", overrides=[*SCRATCH[1::2], *words])
    assert not (tmp_path / "run").exists()


def test_a_metric_that_does_not_exist_cannot_choose_the_best(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no metric 'r10'.*mean_r10"):
        package.train(home / "recipe.toml", tmp_path / "run", overrides=[*SCRATCH[1::2], "evaluate.0.best=r10"])


def test_mlflow_receives_every_number_and_goes_on_after_a_resume(home: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    address = f"file:{tmp_path / 'mlflow'}"
    words = ["--set", 'log.to=["mlflow"]', "--set", f"log.mlflow.tracking_uri={address}", "--set", "train.steps=4"]
    allowed = {"MLFLOW_ALLOW_FILE_STORE": "true"}
    distill("train", "recipe.toml", "--out", tmp_path / "run", *SCRATCH, *words, cwd=home, **allowed)
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-00000003")
    distill("train", "recipe.toml", "--out", tmp_path / "run", *SCRATCH, *words, "--resume", cwd=home, **allowed)
    os.environ.update(allowed)
    client = MlflowClient(address)
    (experiment,) = [one for one in client.search_experiments() if one.name == "distill"]
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.data.params["train.batch_size"] == "16" and str(home) not in str(record.data.params)
    history = {one.step: one.value for one in client.get_metric_history(record.info.run_id, "loss")}
    assert list(history.values()) == pytest.approx(losses_of(tmp_path / "run")) and len(history) == 4
    found: Any = client.get_metric_history(record.info.run_id, "retrieval/mean_r10")
    assert {one.step for one in found} == {2, 4}


def test_weights_and_biases_records_offline(home: Path, tmp_path: Path) -> None:
    words = ["--set", 'log.to=["wandb"]', "--set", "log.wandb.mode=offline", "--set", "train.steps=2"]
    # In a process of its own: that of the other tests ends before wandb's service has written everything.
    command = [*COMMAND, "train", "recipe.toml", "--out", str(tmp_path / "run"), *SCRATCH, *words]
    subprocess.run(command, cwd=home, check=True, capture_output=True)
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"retrieval/mean_r10" in content and b"loss" in content
