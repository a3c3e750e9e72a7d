"""Distributed jobs whose processes are forked from the server that has already imported everything.

DeepSpeed's launcher starts processes that each import torch, DeepSpeed and timm for five seconds, as it does
itself. Tests of distributed computation do not need that; tests of launching go through the command.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from conftest import PROCESSES

SECONDS = 400  # time limit of a job; the longest takes a quarter of that


def in_ranks(nproc: int, work: Callable[..., object], *arguments: Any, cwd: Path) -> list[str]:
    """Call ``work`` in ``nproc`` processes of one process group.

    Args:
        nproc: number of processes.
        work: a function of an importable module; it joins the process group, and leaves it.
        arguments: passed to ``work``.
        cwd: the working directory.

    Returns:
        The standard error of each process. If a process fails, the test fails and shows all of them.
    """
    from launch.group import free_port

    group = {"WORLD_SIZE": str(nproc), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(nproc)]
        ranks = []
        for rank, log in enumerate(logs):
            environment = os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONSAFEPATH": "1"}
            ranks.append(
                PROCESSES.Process(target=_rank, args=(work, arguments, DupFd(log.fileno()), cwd, environment))
            )
            ranks[-1].start()
        end = time.monotonic() + SECONDS
        for process in ranks:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in ranks]
        for process in ranks:
            process.kill()
        said = [log.read() for log in logs if log.seek(0) == 0]
    assert codes == [0] * nproc, "\n".join((str(codes), *said))
    return said


def _rank(
    work: Callable[..., object], arguments: tuple[Any, ...], log: Any, cwd: Path, environment: dict[str, str]
) -> None:
    """The body of one of the processes, newly forked."""
    os.dup2(log.detach(), 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["rank"]
    from launch.process import set_up_process

    set_up_process()
    work(*arguments)


def train_together(home: Path, runs: Mapping[Path, Sequence[str]], nproc: int, resume: bool = False) -> list[str]:
    """Train several runs of ``home``'s recipe, each with its own settings, one after the other in the same processes.

    Returns:
        The standard error of each process.
    """
    prepare_all(home, runs, nproc, resume)
    return in_ranks(nproc, train_all, list(runs), cwd=home)


def prepare_all(home: Path, runs: Mapping[Path, Sequence[str]], nproc: int, resume: bool = False) -> None:
    """Prepare the folders of several runs of ``home``'s recipe."""
    from distill.lookup import resolve
    from distill.recipe import load
    from distill.training import prepare
    from distill.training.setup import Networks
    from launch.launcher import Job
    from launch.launchers.local import Local

    for run, overrides in runs.items():
        job = Job(home / "train_worker.py", (str(run),), home, Local(nproc=nproc))
        resolved = resolve(load(str(home / "recipe.toml"), overrides))
        prepare.prepare(resolved, Networks(resolved), run, resume, job)


def train_all(runs: Sequence[Path]) -> None:
    """In a process of a job: train runs whose folders are prepared."""
    from distill.training.loop import train
    from launch import group

    for run in runs:
        train(run)
    group.leave()
