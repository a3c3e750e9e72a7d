"""Processes that torchrun, DeepSpeed's launcher, mpirun or srun starts, the real programs, train one run together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import slurm_cluster
from conftest import RECIPE, SCRATCH, distill, losses_of, program, wait_for_step, write_shards

DISTILL = str(Path(sys.executable).with_name("distill"))
PACKAGES = "openmpi-bin mpich slurmctld slurmd slurm-client munge"
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# What is written before the words of the command, to start two processes of it.
STARTERS = {
    "torchrun": ("torchrun", "--nproc-per-node=2", DISTILL),
    "torchrun --no-python": ("torchrun", "--standalone", "--nproc-per-node=2", "--no-python", DISTILL),
    "deepspeed": ("deepspeed", "--num_gpus=2", "--master_port=25999", DISTILL),
    "Open MPI": ("mpirun.openmpi", "--oversubscribe", "-n", "2", DISTILL),
    "MPICH": ("mpiexec.hydra", "-n", "2", DISTILL),
    "srun": ("srun", "-n", "2", DISTILL),
    "srun --mpi=pmi2": ("srun", "--mpi=pmi2", "-n", "2", DISTILL),
    "srun torchrun": ("srun", "-n", "1", "torchrun", "--standalone", "--nproc-per-node=2", DISTILL),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, a recipe of three steps and ``local``, the run of two processes of distill's own."""
    home = tmp_path_factory.mktemp("started")
    write_shards(home / "shards", (10, 8, 6))
    recipe = RECIPE.format(shards=home / "shards").replace("steps = 6", "steps = 3")
    (home / "recipe.toml").write_text(recipe)
    distill("train", "recipe.toml", "--out", "local", "--nproc", "2", cwd=home)
    return home


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment variables of a Slurm cluster."""
    names = ("munged", "slurmctld", "slurmd", "sinfo", "srun", "sbatch")
    programs = {name: program(name, PACKAGES) for name in names}
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm_cluster.running(Path(folder), programs) as found:
        yield found


@pytest.fixture
def start(home: Path, request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """A function that starts a command by one of :data:`STARTERS`, and ends what is left of it after the test."""
    started: list[subprocess.Popen[str]] = []

    def start_it(starter: str, *words: object, **env: str) -> subprocess.Popen[str]:
        first, *others = STARTERS[starter]
        found = shutil.which(first, path=str(Path(sys.executable).parent)) or program(first, PACKAGES)
        cluster = request.getfixturevalue("slurm") if first == "srun" else {}
        process = subprocess.Popen(
            [found, *others, *map(str, words)],
            cwd=home,
            env=os.environ | MPI | cluster | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_it
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], status: int | None = 0) -> tuple[str, str]:
    """What a started command printed, when it has ended with ``status``; None if with any but 0."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == status if status is not None else process.returncode, f"{out}\n{err}"
    return out, err


@pytest.mark.starters
@pytest.mark.parametrize("starter", STARTERS)
def test_the_processes_train_one_run_exactly_as_distill_starts_them(starter: str, home: Path, start) -> None:  # type: ignore[no-untyped-def]
    run = home / starter.replace(" ", "-")
    out, err = ended(start(starter, "train", "recipe.toml", "--out", run))
    assert losses_of(run) == losses_of(home / "local") and len(losses_of(run)) == 3
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    assert out.count("The run is in ") == 1 and err.count("training three_towers") >= 1
    assert "Error" not in err


@pytest.mark.starters
@pytest.mark.parametrize("starter", ["torchrun", "Open MPI"])
def test_caches_are_filled_by_all_processes_and_the_result_is_printed_once(  # type: ignore[no-untyped-def]
    starter: str, home: Path, start, tmp_path: Path
) -> None:
    words = ("teachers", "embed", "recipe.toml", "--json", "--out")
    out, err = ended(start(starter, *words, tmp_path / "cache"))
    assert "embedding, process 1 of 2" in err
    assert json.loads(out)["folders"] == [str(tmp_path / "cache")]
    alone = json.loads(distill(*words, tmp_path / "alone", cwd=home).stdout)
    assert json.loads(out)["audits"].keys() == alone["audits"].keys()
    files = sorted(path.name for path in (tmp_path / "alone").rglob("*.safetensors"))
    assert files and files == sorted(path.name for path in (tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.starters
def test_a_run_that_was_stopped_is_resumed_by_processes_started_in_another_way(  # type: ignore[no-untyped-def]
    home: Path, start, slurm: dict[str, str]
) -> None:
    long = ("--set", "train.steps=100", *SCRATCH)
    distill("train", "recipe.toml", "--out", "long", "--nproc", "2", *long, cwd=home)
    process = start("srun", "train", "recipe.toml", "--out", "stopped", *long)
    wait_for_step(home / "stopped", 3, process)
    # As a scheduler does before it ends a job; srun itself, when it gets the signal, kills all tasks at once.
    stop = [program("scancel", PACKAGES), "--jobname=distill", "--signal=TERM"]
    subprocess.run(stop, env=os.environ | slurm, check=True)
    out, _ = ended(process, status=75)
    assert out.count("Stopped as requested") == 1
    done = len(losses_of(home / "stopped"))
    assert 3 <= done < 100
    ended(start("Open MPI", "train", "recipe.toml", "--out", "stopped", "--resume", *long))
    assert losses_of(home / "stopped") == losses_of(home / "long")


@pytest.mark.starters
@pytest.mark.parametrize(
    ("starter", "words", "message"),
    [
        ("torchrun", ("--out", "local"), "{home}/local already holds a run. Add --resume"),
        ("srun", ("--out", "local"), "{home}/local already holds a run. Add --resume"),
        ("Open MPI", ("--nproc", "4"), "mpirun has started 2 processes already, and each would start 4. Leave"),
        ("deepspeed", ("--launcher", "lokal"), "There is no launcher 'lokal'. Did you mean 'local'?"),
    ],
)
def test_an_error_is_told_once_and_ends_all_processes(  # type: ignore[no-untyped-def]
    starter: str, words: tuple[str, ...], message: str, home: Path, start
) -> None:
    _, err = ended(start(starter, "train", "recipe.toml", *words), status=None)
    told = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1 and told[0].startswith(f"Error: {message.format(home=home)}"), err
    assert not (home / "runs").exists() and "/distill/cli/" not in err  # torchrun itself writes a traceback, of itself


@pytest.mark.starters
def test_a_process_that_is_killed_ends_the_others(home: Path, start) -> None:  # type: ignore[no-untyped-def]
    """srun itself leaves them running."""
    process = start("srun", "train", "recipe.toml", "--out", "killed", *SCRATCH, "--set", "train.steps=100000")
    wait_for_step(home / "killed", 1, process)
    for other in psutil.process_iter(["cmdline"]):
        if "killed" in (other.info["cmdline"] or []) and other.environ().get("SLURM_PROCID") == "1":
            other.send_signal(signal.SIGKILL)
    ended(process, status=None)


@pytest.mark.starters
def test_what_one_process_does_is_done_by_the_first_of_several(home: Path, start) -> None:  # type: ignore[no-untyped-def]
    out, err = ended(start("srun", "export", "local", "--out", "exported"))
    assert out.count("The export is in ") == 1 and err.count("distill export works in one process") == 1
    assert (home / "exported" / "config.json").exists()


@pytest.mark.starters
def test_a_batch_script_without_srun_trains_alone(home: Path, slurm: dict[str, str]) -> None:
    """It has the variables of a job of two tasks, of which only srun would start more than one."""
    (home / "job.sh").write_text(f"#!/bin/sh\nexec {DISTILL} train recipe.toml --out batch\n")
    command = [program("sbatch", PACKAGES), "--ntasks=2", "--output=batch.log", "job.sh"]
    subprocess.run(command, cwd=home, env=os.environ | slurm, check=True)
    wait_for_step(home / "batch", 3)
    assert json.loads((home / "batch" / "run.json").read_text())["processes"] == 1
    assert losses_of(home / "batch") == pytest.approx(losses_of(home / "local"), abs=1e-4)
