"""Checking and running a job: a script that a launcher runs in one or several processes.

The script has an absolute path, and runs in a folder of ours and with Python's safe path: a ``losses.py`` in the
user's current directory must not be imported instead of ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from launch.launcher import Job
from launch.process import end_with_parent


def check(job: Job) -> None:
    """Raise if a job cannot be started; see :meth:`launch.launcher.Launcher.check`."""
    job.launcher.check(job)


def run(job: Job) -> int:
    """Start a job, wait for it, and return its exit status; a KeyboardInterrupt is passed on to every process."""
    environment = job.launcher.prepare(job, os.environ | {"PYTHONSAFEPATH": "1"})
    # In a process group of its own: signals that a terminal or a scheduler sends to this process's group do not reach
    # the launcher directly; this process passes them on.
    process = subprocess.Popen(
        job.launcher.command(job), cwd=job.folder, env=environment, process_group=0, preexec_fn=end_with_parent
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


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
