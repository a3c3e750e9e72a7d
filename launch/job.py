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

# From a terminal, a scheduler, a closed connection; and SIGUSR1, for Slurm's --signal=USR1@SECONDS.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def check(job: Job) -> None:
    """Raise if a job cannot be started; see :meth:`launch.launcher.Launcher.check`."""
    job.launcher.check(job)


def run(job: Job) -> int:
    """Start a job, wait for it, and return its exit status; see :meth:`launch.launcher.Launcher.run`."""
    return job.launcher.run(job)


@contextmanager
def on_termination(request_stop: Callable[[], object]) -> Iterator[None]:
    """Inside, the first signal of ``STOP_SIGNALS`` calls ``request_stop``, and the work ends when it has heeded that.

    A second SIGINT or SIGTERM raises KeyboardInterrupt. So does the first signal if ``request_stop`` raises OSError.
    """
    requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested and number in (signal.SIGINT, signal.SIGTERM):
            raise KeyboardInterrupt
        if requested:
            return
        requested = True
        try:
            request_stop()
        except OSError as error:
            raise KeyboardInterrupt from error

    with stop_signals(handle):
        yield


@contextmanager
def stop_signals(handle: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Inside, ``handle`` is called for each of ``STOP_SIGNALS``, but for those that this process ignores.

    Outside the main thread, where Python allows no signal handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # nohup makes a process ignore SIGHUP, and a shell SIGINT in what it starts in the background.
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
