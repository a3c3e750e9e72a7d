"""Interrupted runs that are resumed: bit for bit as without the interruption, or with other processes and stages."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import RECIPE, SCRATCH, distill, losses_of, metrics, wait_for_step, write_shards
from ranks import in_ranks, train_together
from safetensors.torch import load_file, save_file

from distill.errors import UserError
from distill.training import checkpoint, run_lock
from distill.training.loop import train
from launch import group

SCRIPT = Path(sys.executable).with_name("distill")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    return folder


def back_to_step_3(run: Path, new: Path) -> Path:
    """A copy of a finished run in the state of one that was killed after step 4."""
    shutil.copytree(run, new)
    shutil.rmtree(new / "checkpoints" / "step-00000006")
    (new / "checkpoints" / "latest").write_text("step-00000003")
    lines = (new / "metrics.jsonl").read_text().splitlines(keepends=True)
    (new / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    return new


PLAIN = ("teacher=[]", "objective.name=contrastive")
# (processes, ZeRO stage) of a run, and those with which it is resumed.
CHANGES = [
    *(((1, 0), (2, 0)), ((1, 0), (2, 3)), ((1, 0), (1, 2))),
    *(((2, 1), (1, 0)), ((2, 1), (2, 2)), ((4, 2), (2, 1)), ((4, 2), (1, 3))),
    *(((2, 3), (1, 0)), ((2, 3), (4, 1))),
]
# Settings of runs of two processes, resumed with the same number of processes and stage.
PAIRS = {
    f"stage{stage}": ("student.text.dropout=0.1", f"train.micro_batch={4 * (stage % 2)}", f"zero.stage={stage}")
    for stage in range(4)
}
PAIRS["norms"] = (*PLAIN, 'student.image={arch="resnet18", stem_width=8, channels=[8, 8, 8, 8]}')


def shape(stage: int) -> tuple[str, ...]:
    return (*PLAIN, f"zero.stage={stage}")


def name_of(then: tuple[int, int], now: tuple[int, int] = (0, 0)) -> str:
    return "-".join(map(str, (*then, *now)))


@pytest.fixture(scope="module")
def before(home: Path) -> dict[tuple[int, int], Path]:
    """Finished runs, by processes and stage; those of :data:`PAIRS` are in the same folder."""
    runs = {then: home / name_of(then) for then, _ in CHANGES}
    pairs = {home / name: settings for name, settings in PAIRS.items()}
    for nproc in (1, 2, 4):
        some = {run: shape(stage) for (made_by, stage), run in runs.items() if made_by == nproc}
        train_together(home, some | pairs if nproc == 2 else some, nproc)
    return runs


@pytest.fixture(scope="module")
def after(home: Path, before: dict[tuple[int, int], Path]) -> Path:
    """A folder with copies of all these runs, interrupted after step 4 and resumed."""
    folder = home / "after"
    folder.mkdir()
    pairs = {back_to_step_3(home / name, folder / name): settings for name, settings in PAIRS.items()}
    for nproc in (1, 2, 4):
        some = {
            back_to_step_3(before[then], folder / name_of(then, now)): shape(now[1])
            for then, now in CHANGES
            if now[0] == nproc
        }
        train_together(home, some | pairs if nproc == 2 else some, nproc, resume=True)
    return folder


@pytest.mark.parametrize("name", PAIRS)
def test_two_processes_resume_bit_for_bit_at_every_stage(home: Path, after: Path, name: str) -> None:
    whole, parts = home / name, after / name
    assert losses_of(parts) == losses_of(whole)
    a, b = (load_file(run / "checkpoints/step-00000006/state.safetensors") for run in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_each_process_restores_its_own_batch_norm_statistics(home: Path, after: Path) -> None:
    state = load_file(home / "norms" / "checkpoints/step-00000003/state.safetensors")
    own = [{k: v for k, v in state.items() if k.startswith(f"buffers-{rank}/")} for rank in (0, 1)]
    assert any(not torch.equal(v, own[1][k.replace("-0/", "-1/")]) for k, v in own[0].items() if "running_mean" in k)
    assert losses_of(after / "norms") == losses_of(home / "norms")


@pytest.mark.parametrize("then, now", CHANGES)
def test_a_run_resumes_with_other_processes_and_stages(
    before: dict[tuple[int, int], Path], after: Path, then: tuple[int, int], now: tuple[int, int]
) -> None:
    run = after / name_of(then, now)
    expected, found = metrics(before[1, 0]), metrics(run)
    # Exactly the same samples at every step, none lost, none repeated; losses differ by the order of summation.
    assert [line["samples"] for line in found] == [line["samples"] for line in expected]
    assert losses_of(run) == pytest.approx(losses_of(before[1, 0]), rel=1e-3)
    made_by = json.loads((run / "checkpoints/step-00000006/checkpoint.json").read_text())["made_by"]
    assert (made_by["processes"], made_by["zero_stage"]) == now


def damage(name: str, file: Path) -> None:
    """Damage a file: remove it, flip a bit, cut it off, or empty it."""
    content = bytearray(file.read_bytes())
    if name == "gone":
        file.unlink()
    elif name == "a flipped bit":
        content[-5] ^= 4
        file.write_bytes(content)
    else:
        file.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}[name]])


@pytest.mark.parametrize("file", ["state.safetensors", "students.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("kind", ["gone", "cut", "empty", "a flipped bit"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, before: dict[tuple[int, int], Path], file: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(before[1, 0], run)
    damage(kind, run / "checkpoints" / "step-00000006" / file)
    found = checkpoint.newest(run)
    warning = capsys.readouterr().err
    if kind == "a flipped bit" and file == "checkpoint.json":
        # A bit of white space or of a hash: either the content is unchanged, or the checkpoint is skipped.
        assert (found == run / "checkpoints" / "step-00000006") == (warning == "")
    else:
        assert found == run / "checkpoints" / "step-00000003"
        assert "step-00000006 is damaged" in warning and warning.count("\n") == 1
    for path in (run / "checkpoints").glob("step-*/students.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(checkpoint.UserError, match="No checkpoint in .* is whole"):
        checkpoint.newest(run)


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(
    home: Path, tmp_path: Path, before: dict[tuple[int, int], Path]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(before[1, 0], run)
    damage("a flipped bit", run / "checkpoints/step-00000006/state.safetensors")
    log = distill("train", "recipe.toml", "--out", run, *SCRATCH, "--resume", cwd=home).stderr
    assert "step-00000006 is damaged" in log
    assert losses_of(run) == losses_of(before[1, 0]) and checkpoint.complaint(run / "checkpoints/step-00000006") == ""
    distill("export", run, "--out", tmp_path / "export", cwd=home)


class CreatesFile:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_in_a_checkpoint_is_read(home: Path, tmp_path: Path, before: dict[tuple[int, int], Path]) -> None:
    """Whether it replaces a file of a checkpoint, or has one of the names that DeepSpeed reads."""
    mark, harmful = tmp_path / "mark", pickle.dumps(CreatesFile(tmp_path / "mark"))
    torch.save(CreatesFile(mark), tmp_path / "harm.pt")
    for number, content in enumerate((harmful, (tmp_path / "harm.pt").read_bytes())):
        run = back_to_step_3(before[1, 0], tmp_path / f"run{number}")
        folder = run / "checkpoints" / "step-00000003"
        (folder / "mp_rank_00_model_states.pt").write_bytes(content)
        (folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(content)
        distill("train", "recipe.toml", "--out", run, *SCRATCH, "--resume", cwd=home)
        for name in ("state.safetensors", "students.safetensors", "checkpoint.json"):
            (run / "checkpoints" / "step-00000006" / name).write_bytes(content)
        assert checkpoint.newest(run) is None or checkpoint.newest(run) == folder
    assert not mark.exists()
    pickle.loads(harmful)
    assert mark.exists(), "reading the pickle would create the file"


def test_the_last_k_checkpoints_are_kept_and_unfinished_ones_ignored(tmp_path: Path) -> None:
    folder, tensors = tmp_path / "checkpoints", {"model/a": torch.arange(3.0)}
    for step in (1, 2, 3, 4):
        checkpoint.write(folder, tensors, {"scale": torch.ones(1)}, {"step": step}, keep=2)
        (folder / ".unfinished-step-00000009").mkdir(exist_ok=True)
        save_file(tensors, folder / ".unfinished-step-00000009" / "state.safetensors")
    assert sorted(p.name for p in folder.glob("step-*")) == ["step-00000003", "step-00000004"]
    assert checkpoint.newest(tmp_path) == folder / "step-00000004"
    (folder / "latest").unlink()  # as if killed before it was written
    assert checkpoint.newest(tmp_path) == folder / "step-00000004"


def start(home: Path, run: Path, *options: object) -> subprocess.Popen[str]:
    words = [str(option) for option in (SCRIPT, "train", "recipe.toml", "--out", run, *options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=home, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_a_checkpoint_and_exits_with_status_75(home: Path, processes: int) -> None:
    """Sent to the whole process group of the command, loaders included, as schedulers do."""
    run, whole = home / f"term{processes}", home / f"term{processes}-whole"
    settings = (*PLAIN, "train.steps=60", "data.workers=1", "checkpoint.every_steps=1000")
    options = [word for one in settings for word in ("--set", one)]
    process = start(home, run, *options, "--nproc", str(processes))
    wait_for_step(run, 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "--resume" in out and "Traceback" not in err
    done = len(metrics(run))
    assert 3 <= done < 60 and (run / "checkpoints" / "latest").read_text() == f"step-{done:08d}"
    train_together(home, {run: settings}, processes, resume=True)
    train_together(home, {whole: settings}, processes)
    assert losses_of(run) == losses_of(whole)


def test_a_run_has_one_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE", 0.5)
    with run_lock.locked(tmp_path):
        with pytest.raises(UserError, match="Another process trains in"), run_lock.locked(tmp_path):
            pass
        assert capsys.readouterr().err.count("waiting for it to end") == 1
    with run_lock.locked(tmp_path):
        pass
    assert (tmp_path / ".lock").exists() and capsys.readouterr().err == ""


def test_what_a_killed_trainer_has_forked_does_not_hold_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as loader processes, which run on for some seconds."""
    context = multiprocessing.get_context("fork")
    trainer = context.Process(target=hold_with_a_child, args=(tmp_path,))
    trainer.start()
    # Not join with a timeout: it would also wait for the process that the trainer has forked.
    assert os.waitstatus_to_exitcode(os.waitpid(trainer.pid or 0, 0)[1]) == -signal.SIGKILL
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    forked = int((tmp_path / "forked").read_text())
    try:
        with run_lock.locked(tmp_path):
            assert psutil.pid_exists(forked), "it must still run, or this would test nothing"
    finally:
        os.kill(forked, signal.SIGKILL)


def hold_with_a_child(run: Path) -> None:
    """Take a run, fork a process that runs for some seconds, and die."""
    with run_lock.locked(run):
        if (forked := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        (run / "forked").write_text(str(forked))
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_lock(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with run_lock.locked(tmp_path), run_lock.locked(tmp_path):
        pass
    monkeypatch.undo()
    with run_lock.locked(tmp_path):
        pass


def test_a_run_that_cannot_go_on_is_left(home: Path) -> None:
    """Else a second start in the same process would wait for the first."""
    run = home / "damaged"
    train_together(home, {run: PLAIN}, 1)
    for file in (run / "checkpoints").glob("*/state.safetensors"):
        file.write_bytes(b"damaged")
    (said,) = in_ranks(1, start_twice, run, cwd=home)
    assert "waiting for it to end" not in said


def start_twice(run: Path) -> None:
    """In a process of a job: start a run whose checkpoints are all damaged, twice."""
    run_lock.PATIENCE = 0.5
    for _ in range(2):
        with pytest.raises(UserError, match="is whole"):
            train(run)
    group.leave()


def test_killing_the_command_ends_its_processes(home: Path) -> None:
    run = home / "orphans"
    process = start(home, run, *SCRATCH, "--set", "train.steps=5000", "--nproc", "2")
    wait_for_step(run, 3, process)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert len(below) >= 3 and not psutil.wait_procs(below, timeout=45)[1]


def test_a_checkpoint_is_saved_every_given_number_of_minutes(home: Path) -> None:
    options = ["--set", "checkpoint.every_steps=1000", "--set", "checkpoint.every_minutes=0.00001"]
    distill("train", "recipe.toml", "--out", "minutes", *SCRATCH, *options, "--set", "checkpoint.keep=9", cwd=home)
    found = {path.name for path in (home / "minutes" / "checkpoints").glob("step-*")}
    assert found == {f"step-{step:08d}" for step in range(1, 7)}


def test_resume_refuses_other_data_and_seed_but_accepts_other_checkpoint_settings(home: Path, tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path / "own", (32,))
    options = [*SCRATCH, "--set", f"data.train={shard}"]
    distill("train", "recipe.toml", "--out", tmp_path / "run", *options, cwd=home)
    again = ("train", "recipe.toml", "--out", tmp_path / "run", *options, "--resume")
    distill(*again, "--set", "checkpoint.every_steps=1", "--set", "data.workers=1", cwd=home)
    error = distill(*again, "--set", "train.seed=3", cwd=home, status=2).stderr
    assert "another train.seed" in error
    write_shards(tmp_path / "own", (31,))
    assert f"has changed since the run was started: {shard}" in distill(*again, cwd=home, status=2).stderr
