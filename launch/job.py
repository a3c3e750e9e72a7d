"""A job: a script that a launcher runs in one or several processes.

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
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from launch.launcher import Launcher
from launch.process import end_with_parent


@dataclass(frozen=True)
class Job:
    """What to start, where, and how.

    Attributes:
        script: the worker, an absolute path that exists on every host.
        arguments: the worker's command-line arguments.
        folder: the working directory, on every host; a launcher may write files of its own into it.
        launcher: starts the processes.
    """

    script: Path
    arguments: tuple[str, ...]
    folder: Path
    launcher: Launcher

    @property
    def world(self) -> int:
        """The number of processes; raises like :attr:`launch.launcher.Launcher.world`."""
        return self.launcher.world

    @property
    def here(self) -> bool:
        """Whether it is one process on this machine: then the calling process does the work, and starts nothing."""
        return self.launcher.here


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
