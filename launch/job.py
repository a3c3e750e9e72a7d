"""Checking and running a job: a script that a launcher runs in one or several processes.

The script has an absolute path, and runs in a folder of ours and with Python's safe path: a ``losses.py`` in the
user's current directory must not be imported instead of ours.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from launch.launcher import Job


def check(job: Job) -> None:
    """Raise if a job cannot be started; see :meth:`launch.launcher.Launcher.check`."""
    job.launcher.check(job)


def run(job: Job) -> int:
    """Start a job, wait for it, and return its exit status; see :meth:`launch.launcher.Launcher.run`."""
    return job.launcher.run(job)


@contextmanager
def on_termination(request_stop: Callable[[], object]) -> Iterator[None]:
    """Inside, the first SIGTERM calls ``request_stop``, and the work ends when it has heeded that request.

    A second SIGTERM raises KeyboardInterrupt. So does the first one if ``request_stop`` raises OSError. Outside the
    main thread, where Python allows no signal handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        try:
            request_stop()
        except OSError as error:
            raise KeyboardInterrupt from error

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
