"""Loader processes end with the process they load for, however that ends."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

PROGRAM = """
import sys
from distill.data.loading import prefetch
loaded = prefetch(list(range(100)), 2, False)  # held by this module until after the interpreter's exit handlers
assert int(next(loaded)) == 0
{end}
"""
ENDS = {"the end": ("", 0), "exit": ("sys.exit(3)", 3), "an error": ("raise MemoryError", 1)}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_with_batches_left_does_not_wait_for_its_loaders(end: str) -> None:
    """Loaders heed no SIGTERM, which is what multiprocessing would send them."""
    statement, status = ENDS[end]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(end=statement)], stderr=subprocess.DEVNULL)
    family = psutil.Process(process.pid)
    try:
        assert process.wait(timeout=120) == status
    finally:
        for child in [*family.children(recursive=True), family] if process.poll() is None else []:
            child.kill()
