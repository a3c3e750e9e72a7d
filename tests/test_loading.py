"""Loader processes end when their parent process ends, and free nothing of what they have inherited from it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from torch.utils.data import Dataset

from distill.data.loading import prefetch

PROGRAM = """
import sys
from distill.data.loading import prefetch
loaded = prefetch(list(range(100)), 2, False)  # held by this module until after the interpreter's exit handlers
assert int(next(loaded)) == 0
{end}
"""
ENDS = {"the end": ("", 0), "exit": ("sys.exit(3)", 3), "an error": ("raise MemoryError", 1)}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_with_unread_batches_does_not_wait_for_its_loaders(end: str) -> None:
    """Loaders ignore SIGTERM, which multiprocessing would send them at exit before waiting for them."""
    statement, status = ENDS[end]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(end=statement)], stderr=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    try:
        assert process.wait(timeout=120) == status
    finally:
        for child in [*parent.children(recursive=True), parent] if process.poll() is None else []:
            child.kill()


class Collecting(Dataset[int]):
    """Collects garbage in the process that reads an item, which is the number of that process."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> int:
        gc.collect()
        return os.getpid()


class Owner:
    """Like a process group: part of a reference cycle, with a finalizer that is for the process that made it."""

    def __init__(self, log: Path) -> None:
        self.log, self.itself = log, self

    def __del__(self) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")


def test_loader_processes_do_not_finalize_the_garbage_of_their_parent(tmp_path: Path) -> None:
    """The destructor of a gloo group of an earlier training waits for threads that a forked process does not have."""
    gc.collect()
    gc.disable()
    try:
        Owner(tmp_path / "log")
        loaded = prefetch(Collecting(), 1, False)
        workers = {int(item) for item in loaded}
    finally:
        gc.enable()
    gc.collect()
    assert workers and os.getpid() not in workers
    assert (tmp_path / "log").read_text().split() == [str(os.getpid())]
