"""Stopping and going on: signals, exit statuses, what may change on --resume, --extend, --init, and a full disk."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RECIPE, SCRATCH, distill, losses_of, metrics, wait_for_step, workers_of, write_shards

import distill as package
from distill.config import Optim
from distill.training.schedule import learning_rate
from distill.training.space import checkpoint_size

SCRIPT = [sys.executable, "-c", "import sys; sys.argv[0] = 'distill'; from distill.cli.main import main; main()"]
LONG = [*SCRATCH, "--set", "train.steps=5000", "--set", "checkpoint.every_steps=100000"]
SHORT = [*SCRATCH, "--set", "train.steps=6"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, a recipe, and a run of six steps without a teacher."""
    home = tmp_path_factory.mktemp("home")
    write_shards(home / "shards")
    (home / "recipe.toml").write_text(RECIPE.format(shards=home / "shards"))
    distill("train", "recipe.toml", "--out", "whole", *SHORT, cwd=home)
    return home


def start(home: Path, run: str, *options: object) -> subprocess.Popen[str]:
    words = [*SCRIPT, "train", "recipe.toml", "--out", run, *map(str, options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=home, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def end(process: subprocess.Popen[str], status: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, (process.returncode, out, err)
    assert "Traceback" not in err, err
    return out, err


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(home: Path, number: signal.Signals, processes: int) -> None:
    run = f"{number.name}{processes}"
    process = start(home, run, *LONG, "--nproc", processes)
    wait_for_step(home / run, 2, process)
    os.killpg(process.pid, number)  # to the whole foreground process group, as a terminal does
    out, err = end(process, 75)
    assert "Stopping: this step is completed and a checkpoint saved" in err
    done = len(metrics(home / run))
    assert (home / run / "checkpoints" / "latest").read_text() == f"step-{done:08d}"
    command = out.splitlines()[-1]
    assert command.strip().startswith("distill train recipe.toml --out") and command.endswith("--resume")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_ctrl_c_stops_at_once_and_quietly(home: Path, processes: int) -> None:
    run = home / f"twice{processes}"
    # A step takes so long that the second request comes before its end.
    process = start(
        home, run.name, *LONG, "--set", "train.batch_size=64", "--set", "student.image.depth=40", "--nproc", processes
    )
    wait_for_step(run, 1, process)
    workers = list(workers_of(process.pid).values())
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.2)  # a second press, not the same one by two ways
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    # It may have saved before the second request came, which then ends the interpreter where it is.
    assert process.returncode in (130, 75, -signal.SIGINT), (out, err)
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)


def test_an_interrupted_preparation_leaves_nothing_and_says_so(home: Path) -> None:
    (home / "many").mkdir()
    for i in range(40):
        shutil.copy(home / "shards" / "train-000000.tar", home / "many" / f"{i:03d}.tar")
    words = [
        "--set",
        f"data.train={home / 'many'}",
        "--set",
        "teacher.0.views=8",
        "--set",
        f"teacher.0.cache={home / 'cache'}",
    ]
    process = start(home, "early", *words)
    end_time = time.monotonic() + 60
    while not list(home.glob("cache/*.safetensors")) and not list(home.glob("cache/**/*.safetensors")):
        assert time.monotonic() < end_time and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = end(process, 130)
    assert "Interrupted before training began. The same command begins again" in err
    assert not (home / "early").exists() and not list(home.glob(".early*"))


def test_a_background_process_ignores_what_its_shell_ignores(home: Path) -> None:
    process = subprocess.Popen(
        [*SCRIPT, "train", "recipe.toml", "--out", "nohup", *SCRATCH, "--set", "train.steps=400"],
        cwd=home,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_step(home / "nohup", 2, process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    done_at_hangup = len(metrics(home / "nohup"))
    assert process.wait(60) in (0, 75) and done_at_hangup >= 2


def resume(home: Path, run: str, *options: str, status: int = 0) -> str:
    return distill("train", "recipe.toml", "--out", run, *options, "--resume", cwd=home, status=status).stderr


def stopped(home: Path, run: str, *options: str) -> None:
    """A run of six steps that stands at step 3: its later checkpoint is taken away."""
    distill("train", "recipe.toml", "--out", run, *SHORT, *options, cwd=home)
    shutil.rmtree(home / run / "checkpoints" / "step-00000006")
    (home / run / "checkpoints" / "latest").write_text("step-00000003")


def test_a_run_goes_on_with_its_files_elsewhere(home: Path, tmp_path: Path) -> None:
    """Moved shards, named in another order; another data.eval, cache folder and micro-batch: the same losses."""
    stopped(home, "moving")
    (tmp_path / "z").mkdir()
    shutil.copy(home / "shards" / "train-000000.tar", tmp_path / "z" / "first.tar")
    shutil.copy(home / "shards" / "train-000001.tar", tmp_path / "a.tar")
    write_shards(tmp_path / "eval", (4,), 90)
    train = f'data.train=["{tmp_path}/a.tar", "{tmp_path}/z/first.tar"]'
    moved = ["--set", train, "--set", f"data.eval={tmp_path}/eval", "--set", "train.micro_batch=8"]
    resume(home, "moving", *SHORT, *moved)
    assert losses_of(home / "moving") == pytest.approx(losses_of(home / "whole"), rel=1e-5)
    assert [m["samples"] for m in metrics(home / "moving")] == [m["samples"] for m in metrics(home / "whole")]
    (tmp_path / "a.tar").write_bytes((tmp_path / "z" / "first.tar").read_bytes())
    shutil.rmtree(home / "moving" / "checkpoints" / "step-00000006")
    (home / "moving" / "checkpoints" / "latest").write_text("step-00000003")
    assert "The training data has changed" in resume(home, "moving", *SHORT, *moved, status=2)


def test_a_cache_may_move_but_not_become_a_live_teacher(home: Path, tmp_path: Path) -> None:
    words = ["--set", "train.steps=6", "--set"]
    distill("train", "recipe.toml", "--out", "cached", *words, f"teacher.0.cache={home / 'c1'}", cwd=home)
    losses = losses_of(home / "cached")
    shutil.rmtree(home / "cached" / "checkpoints" / "step-00000006")
    (home / "cached" / "checkpoints" / "latest").write_text("step-00000003")
    shutil.move(home / "c1", tmp_path / "c2")
    refused = resume(home, "cached", *words, "teacher.0.cache=none", status=2)
    assert "started with another teacher.0.cache" in refused
    log = resume(home, "cached", *words, f"teacher.0.cache={tmp_path / 'c2'}")
    assert "The teacher caches need" not in log and losses_of(home / "cached") == losses


def test_a_finished_run_can_be_made_longer(home: Path) -> None:
    """From there on the learning rate is that of a run of the new length; batches are those of one, too."""
    shutil.copytree(home / "whole", home / "longer")
    ten = [*SCRATCH, "--set", "train.steps=10"]
    assert "Add --extend to make it longer" in resume(home, "longer", *ten, status=2)
    resume(home, "longer", *ten, "--extend")
    assert losses_of(home / "longer")[:6] == losses_of(home / "whole")
    rates = [m["lr"] for m in metrics(home / "longer")]
    assert rates[6:] == pytest.approx([learning_rate(step, 10, Optim()) for step in range(6, 10)])
    assert rates[:6] == pytest.approx([learning_rate(step, 6, Optim()) for step in range(6)])
    distill("train", "recipe.toml", "--out", "ten", *ten, cwd=home)
    assert [m["samples"] for m in metrics(home / "longer")] == [m["samples"] for m in metrics(home / "ten")]
    about = json.loads((home / "longer" / "run.json").read_text())
    assert about["steps"] == 10 and about["extended"] == [{"at": 6, "from": 6, "to": 10}]
    refused = resume(home, "longer", *SCRATCH, "--set", "train.steps=8", "--extend", status=2)
    assert "has done 10 steps and cannot be made one of 8" in refused
    alone = distill("train", "recipe.toml", "--out", "x", "--extend", cwd=home, status=2).stderr
    assert "Only a run that is continued can be extended" in alone


@pytest.mark.parametrize("source", ["run", "export"])
def test_a_training_starts_from_the_students_of_a_run_or_an_export(home: Path, source: str) -> None:
    if source == "export":
        distill("export", "whole", "--out", "export", cwd=home)
    folder = {"run": "whole", "export": "export"}[source]
    words = [*SCRATCH, "--set", "train.steps=1", "--set", "optim.lr=1e-30", "--init", folder]
    distill("train", "recipe.toml", "--out", f"from-{source}", *words, cwd=home)
    before, after = package.load(home / "whole"), package.load(home / f"from-{source}")
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(after.encode_image(image), before.encode_image(image), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        after.encode_text("a red circle"), before.encode_text("a red circle"), rtol=0, atol=1e-6
    )
    assert len(metrics(home / f"from-{source}")) == 1


@pytest.mark.parametrize(
    "options, words",
    [
        (["--init", "nowhere"], "nowhere"),
        (["--init", "whole", "--set", "student.text.depth=3"], "blocks.layers.2"),
        (["--init", "whole", "--set", "student.image.depth=3"], "blocks.2"),
        (["--init", "whole", "--resume"], "has its own weights"),
        (["--init", "whole", "--set", "student.text.init=whole"], "names initial weights itself"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_initial_weights_that_do_not_fit_are_refused(home: Path, options: list[str], words: str) -> None:
    assert words in distill("train", "recipe.toml", "--out", "refused", *SHORT, *options, cwd=home, status=2).stderr
    assert not (home / "refused").exists()


def test_a_disk_without_room_for_the_checkpoints_is_said_before_training(home: Path, tmp_path: Path) -> None:
    """On a file system of one megabyte."""
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]).returncode:
        assert not os.environ.get("CI"), "CI must be able to mount a small file system"
        pytest.skip("mounting a file system needs root")
    try:
        words = ["--out", tmp_path / "run", *SHORT, "--set", "checkpoint.keep=5"]
        refused = distill("train", "recipe.toml", *words, cwd=home, status=2).stderr
        assert "checkpoint.keep = 5" in refused and "free" in refused and not (tmp_path / "run").exists()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_size_of_a_checkpoint_is_known_beforehand(home: Path) -> None:
    from distill.training.run import resolve_run
    from distill.training.setup import Networks

    about: dict[str, Any] = json.loads((home / "whole" / "run.json").read_text())
    model = Networks(resolve_run(home / "whole")).model(about["vocab"])
    folder = home / "whole" / "checkpoints" / "step-00000006"
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert math.isclose(checkpoint_size(model), size, rel_tol=0.2)
