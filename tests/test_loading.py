"""Loader processes end when their parent process ends, by a normal exit or by an exception."""

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
