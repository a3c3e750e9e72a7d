"""Faults injected into real runs, with a table of the faults, the runs that finished, and the samples lost.

The samples that each step must train on are computed in tests/fault_table.py; ``samples`` in metrics.jsonl, a
checksum of the samples actually used, must agree at every step. ``pytest -m faults`` runs this file alone and prints
the table at its end.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from conftest import (
    PROCESSES,
    RECIPE,
    SCRATCH,
    _distill,
    distill,
    lines_of,
    losses_of,
    metrics,
    steps_done,
    wait_for_step,
    workers_of,
    write_shards,
    write_tar,
)
from fault_table import BATCH, TABLE, compare, count, expected_sums, print_table, summed
from odd_samples import UNUSABLE, USABLE, Members, plain
from ranks import train_together

from distill.data.indexes import read_index
from distill.training import checkpoint

pytestmark = pytest.mark.faults

SCRIPT = Path(sys.executable).with_name("distill")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("faults")
    write_shards(folder / "shards", (70, 50, 40))
    (folder / "recipe.toml").write_text(RECIPE.format(shards=folder / "shards"))
    yield folder


STEPS = 60
SETTINGS = ("teacher=[]", "objective.name=contrastive", f"train.steps={STEPS}", "checkpoint.every_steps=4")
SETTINGS += ("data.workers=1", "student.text.dropout=0.1")
LONG = [word for one in SETTINGS for word in ("--set", one)]


@pytest.fixture(scope="module")
def whole(home: Path) -> list[float]:
    """The losses of a run without a fault."""
    distill("train", "recipe.toml", "--out", "whole", *LONG, cwd=home)
    assert [line["samples"] for line in metrics(home / "whole")] == expected_sums(home / "shards", STEPS)
    return losses_of(home / "whole")


def start(home: Path, run: Path, log: Path, *options: str) -> BaseProcess:
    """Start ``distill train`` in a new process; if the run exists, it is resumed."""
    words = ["train", "recipe.toml", "--out", str(run), *options]
    words += ["--resume"] if (run / "recipe.toml").exists() else []
    from multiprocessing.reduction import DupFd

    with log.open("a") as file:
        pipes = DupFd(file.fileno()), DupFd(file.fileno())
        process = PROCESSES.Process(target=_distill, args=(words, pipes, str(home), dict(os.environ)))
        process.start()
    return process


def killed_until_done(home: Path, name: str, seed: int, kills: int) -> tuple[int, Path]:
    """Train to the end, with up to ``kills`` kill -9 at random moments; return the number of kills and the run."""
    run, log, chance, killed = home / name, home / f"{name}.log", random.Random(seed), 0
    while killed < kills:
        process = start(home, run, log, *LONG)
        process.join(chance.uniform(0.3, 6.0))
        if process.exitcode is not None:
            break
        assert process.pid is not None
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        for child in children:
            child.kill()
        process.join()
        killed += 1
    process = start(home, run, log, *LONG) if not run.exists() or steps_done(run) < STEPS else process
    process.join(120)
    assert process.exitcode == 0 or len(metrics(run)) == STEPS, log.read_text()[-2000:]
    return killed, run


def test_kill_9_at_random_moments_changes_no_loss(home: Path, whole: list[float]) -> None:
    """The losses are bit for bit those of the run without a fault. Two runs of one process at a time."""
    sums = expected_sums(home / "shards", STEPS)
    total, seed = 0, 0
    with ThreadPoolExecutor(2) as pool:
        while total < 44:
            seeds = [seed, seed + 1]
            seed += 2
            for kills, run in pool.map(lambda s: killed_until_done(home, f"killed{s}", s, 6), seeds):
                lost, repeated = compare(run, sums)
                count("kill -9 of the process, at a random moment", kills, lost=lost, repeated=repeated)
                total += kills
                assert (lost, repeated) == (0, 0) and losses_of(run) == whole
                assert checkpoint.complaint(run / "checkpoints" / f"step-{STEPS:08d}") == ""
            assert seed < 40, "runs end before they can be killed"


def test_kill_9_of_one_or_all_of_two_processes_changes_no_loss(home: Path, whole: list[float]) -> None:
    sums, chance = expected_sums(home / "shards", STEPS), random.Random(7)
    settings, options = (*SETTINGS, "zero.stage=2"), [*LONG, "--nproc", "2", "--set", "zero.stage=2"]
    train_together(home, {home / "pair": settings}, 2)
    run, kills = home / "pair-killed", 0
    for _ in range(8):
        words = [str(SCRIPT), "train", "recipe.toml", "--out", str(run), *options]
        words += ["--resume"] * (run / "recipe.toml").exists()
        process = subprocess.Popen(words, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        end, before, steps_to_wait = time.monotonic() + 60, steps_done(run), chance.randrange(12)
        while len(own := workers_of(process.pid)) < 2 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        # Some are killed while they start, most of them while they train.
        while kills and steps_done(run) < before + steps_to_wait and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.3))
        if process.poll() is None:
            chosen = own if kills % 3 == 2 else {0: own[chance.randrange(2)]}
            for victim in chosen.values():
                if victim.is_running():
                    victim.kill()
            kills += 1
        _, error = process.communicate(timeout=100)
        if process.returncode == 0 or kills == 5:
            break
        assert "Error: The training stopped" in error
    train_together(home, {run: settings}, 2, resume=True)
    lost, repeated = compare(run, sums)
    count("kill -9 of one or all of two processes, ZeRO stage 2", kills, lost=lost, repeated=repeated)
    assert (lost, repeated) == (0, 0) and losses_of(run) == losses_of(home / "pair") and kills >= 3


def test_sigterm_at_random_moments_changes_no_loss(home: Path, whole: list[float]) -> None:
    sums, chance, terms = expected_sums(home / "shards", STEPS), random.Random(3), 0
    run, log = home / "terminated", home / "terminated.log"
    while terms < 6:
        process = start(home, run, log, *LONG)
        before = steps_done(run)
        end = time.monotonic() + 60
        while steps_done(run) <= before and process.exitcode is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGTERM)
            terms += 1
        process.join(60)
        assert process.exitcode in (0, 75), log.read_text()[-2000:]
        if len(metrics(run)) == STEPS:
            break
    if len(metrics(run)) < STEPS:
        distill("train", "recipe.toml", "--out", run, *LONG, "--resume", cwd=home)
    lost, repeated = compare(run, sums)
    count("SIGTERM at a random moment", terms, lost=lost, repeated=repeated)
    assert (lost, repeated) == (0, 0) and losses_of(run) == whole and terms >= 3


SAMPLES_PER_KIND = 5


@pytest.mark.parametrize("processes", [1, 2])
def test_unusable_samples_of_every_kind_are_replaced_and_listed(home: Path, tmp_path: Path, processes: int) -> None:
    """Two epochs over a data set with a third of unusual samples: every usable one is used at its position, every
    unusable one is listed in bad-samples.jsonl."""
    members: list[Members] = []
    kinds: dict[str, str] = {}
    for kind, make in [*UNUSABLE.items(), *USABLE.items()] * SAMPLES_PER_KIND:
        key = f"{len(members):06d}"
        members.append(make(key))
        kinds[key] = kind
    members += [plain(f"{len(members) + i:06d}") for i in range(210)]
    random.Random(1).shuffle(members)
    (tmp_path / "shards").mkdir()
    for number in range(4):
        write_tar(tmp_path / "shards" / f"train-{number}.tar", [m for s in members[number::4] for m in s])
    bad = frozenset(key for key, kind in kinds.items() if kind in UNUSABLE)
    steps, run = 2 * len(members) // BATCH, tmp_path / "run"
    options = [*SCRATCH, "--set", f"data.train={tmp_path / 'shards'}", "--set", f"train.steps={steps}"]
    options += ["--set", "data.bad_samples=80", "--nproc", str(processes), "--set", "data.workers=1"]
    distill("train", "recipe.toml", "--out", run, *options, cwd=home)
    lost, repeated = compare(run, expected_sums(tmp_path / "shards", steps, bad))
    bad_samples = lines_of(run / "bad-samples.jsonl")
    listed = {line["key"] for line in bad_samples}
    duplicates = {key for key, kind in kinds.items() if kind == "duplicate key"}
    assert listed == bad | duplicates and all(line["reason"] and line["shard"] for line in bad_samples)
    for kind in (*UNUSABLE, *USABLE):
        count(kind, SAMPLES_PER_KIND, lost=lost, repeated=repeated)
    assert (lost, repeated) == (0, 0)
    error = distill(
        *("train", "recipe.toml", "--out", tmp_path / "strict", *options, "--set", "data.bad_samples=20"),
        cwd=home,
        status=2,
    ).stderr
    assert "more than the 20 that data.bad_samples allows" in error and "Traceback" not in error


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def damage_header(path: Path) -> None:
    content, offset = bytearray(path.read_bytes()), int(read_index(path).members[9, 0, 0]) - 512
    content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)


ARCHIVES: dict[str, Callable[[Path], object]] = {
    "shard cut off": cut_off,
    "shard of zero bytes": lambda path: path.write_bytes(b""),
    "shard that is no tar file": lambda path: path.write_bytes(b"<html>404</html>" * 200),
    "shard with a torn header": damage_header,
}


@pytest.mark.parametrize("fault", ARCHIVES)
def test_the_undamaged_samples_of_damaged_archives_are_used(home: Path, tmp_path: Path, fault: str) -> None:
    """Their missing samples count towards data.bad_samples, estimated from the size of the other shards."""
    for number, path in enumerate(write_shards(tmp_path / "shards", (20,) * 6)):
        if number in (1, 4):
            ARCHIVES[fault](path)
    indexes = [read_index(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    lacking = {
        key
        for index in indexes
        for key, row in zip(index.keys, index.members, strict=True)
        if row[0, 1] < 0 or (row[1:, 1] < 0).all()
    }
    options = [*SCRATCH, "--set", f"data.train={tmp_path / 'shards'}", "--set", "train.steps=14"]
    run = tmp_path / "run"
    error = distill("train", "recipe.toml", "--out", run, *options, cwd=home, status=2).stderr
    assert "that data.bad_samples allows" in error and not run.exists()
    log = distill("train", "recipe.toml", "--out", run, *options, "--set", "data.bad_samples=60", cwd=home).stderr
    assert "bad samples are passed over" in log
    lost, repeated = compare(run, expected_sums(tmp_path / "shards", 14, frozenset(lacking)))
    count(fault, 2, lost=lost, repeated=repeated)
    assert (lost, repeated) == (0, 0)


def test_a_shard_replaced_during_a_run_is_not_used_any_more(home: Path, tmp_path: Path) -> None:
    """From then on its samples are unusable and listed in bad-samples.jsonl; the run continues with the others."""
    write_shards(tmp_path / "shards", (60, 20, 60))
    run, log = tmp_path / "run", tmp_path / "log"
    options = [*SCRATCH, "--set", f"data.train={tmp_path / 'shards'}", "--set", "train.steps=80"]
    process = start(home, run, log, *options, "--set", "data.bad_samples=25", "--set", "data.workers=0")
    wait_for_step(run, 5, process)
    write_tar(tmp_path / "shards" / "train-000001.tar", [m for i in range(9) for m in plain(f"{i + 900:06d}")])
    process.join(120)
    assert process.exitcode == 0, log.read_text()[-2000:]
    bad_samples = lines_of(run / "bad-samples.jsonl")
    assert {line["reason"] for line in bad_samples} == {"the shard has been replaced since it was indexed"}
    assert {Path(line["shard"]).name for line in bad_samples} == {"train-000001.tar"} and len(bad_samples) == 20
    # Until then the samples are as planned; all 20 samples of the shard are listed, each once.
    sums, used = original_sums(tmp_path, 80, run), [line["samples"] for line in metrics(run)]
    first = min(line["step"] for line in bad_samples)
    assert first > 5 and len(used) == 80 and used[: first - 1] == sums[: first - 1]
    count("shard replaced during the run", 1)


def original_sums(tmp_path: Path, steps: int, run: Path) -> list[int]:
    """The sums of the samples that the steps would have used had the shard not been replaced."""
    write_shards(tmp_path / "as-it-was", (60, 20, 60))
    return expected_sums(tmp_path / "as-it-was", steps)


def test_a_damaged_checkpoint_is_skipped(home: Path, whole: list[float]) -> None:
    """One file at a time is damaged, in one of several ways: the checkpoint before it is then the newest valid one."""
    run, chance, sums = home / "whole", random.Random(5), expected_sums(home / "shards", STEPS)
    options = [*LONG, "--set", "checkpoint.keep=3"]
    damaged = 0
    for name in ("state.safetensors", "students.safetensors", "checkpoint.json"):
        for damage in ("gone", "cut", "bit", "bit", "zeros", "longer"):
            newest = checkpoint.newest(run)
            assert newest is not None and newest.name == f"step-{STEPS:08d}"
            file = newest / name
            original = file.read_bytes()
            content = bytearray(original)
            position = chance.randrange(len(content))
            if damage == "gone":
                file.unlink()
            elif damage == "cut":
                file.write_bytes(content[:position])
            elif damage == "bit":
                content[position] ^= 1 << chance.randrange(8)
                file.write_bytes(content)
            elif damage == "zeros":
                content[position : position + 64] = bytes(len(content[position : position + 64]))
                file.write_bytes(content)
            else:
                file.write_bytes(content + b"more")
            damaged += 1
            skipped = checkpoint.complaint(newest) != ""
            # In the JSON file, a changed bit of white space or of an unused number does no harm.
            assert skipped or name == "checkpoint.json", damage
            older = checkpoint.newest(run)
            assert older is not None and (older.name < newest.name) == skipped
            file.write_bytes(original)
    distill("train", "recipe.toml", "--out", run, *options, "--resume", cwd=home)
    lost, repeated = compare(run, sums)
    count("checkpoint file cut, changed, emptied or gone", damaged, lost=lost, repeated=repeated)
    assert (lost, repeated) == (0, 0) and losses_of(run) == whole


def test_the_table_counts_enough_faults_and_no_loss(capsys: pytest.CaptureFixture[str]) -> None:
    """The last test of this file: at least 200 faults, 50 of them kill -9, and no sample lost or repeated."""
    if len(TABLE) < 5:
        pytest.skip("the other tests of this file did not run")
    total = summed(TABLE.values())
    with capsys.disabled():
        print_table(total)
    kills = summed(row for fault, row in TABLE.items() if fault.startswith("kill -9"))
    assert total.injected >= 200 and kills.injected >= 50, (total, kills)
    assert total.finished == total.runs and total.lost == total.repeated == 0
