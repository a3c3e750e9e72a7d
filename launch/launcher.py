"""The base class of launchers, which start the processes of a job; and the job.

A launcher is one file of ``launch/launchers/``, or an entry point ``distill.launchers`` of another installed package.
"""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from launch.process import end_with_parent

SECONDS_TO_END = 10  # for the processes of a job, after a KeyboardInterrupt, before they are killed


class Launcher(BaseModel, ABC):
    """One way to start the processes of a job; the fields of a subclass are its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abstractmethod
    def world(self) -> int:
        """The number of processes it starts.

        Raises:
            ValueError: if the options do not say how many.
        """

    @property
    def here(self) -> bool:
        """Whether one process on this machine is all it starts: then the calling process does the work itself."""
        return False

    @abstractmethod
    def check(self, job: Job) -> None:
        """Raise if the job cannot be started; called before any work is done for it.

        Raises:
            ValueError: if an option does not fit this machine, or a file it names is wrong.
            ImportError: if a program that it needs is not installed.
            ConnectionError: if another machine cannot be used.
        """

    @abstractmethod
    def command(self, job: Job) -> list[str]:
        """The command line that starts all processes, waits for them, and fails if one of them does.

        Each process must find ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` in its
        environment, and run ``job.script`` with ``job.arguments`` in ``job.folder``.
        """

    def prepare(self, job: Job, environment: dict[str, str]) -> dict[str, str]:
        """Called once, just before the command starts; may write files into ``job.folder``.

        Args:
            job: what is about to start; its folder exists.
            environment: this process's environment variables, with those that every job needs.

        Returns:
            The environment of the command; by default the one given.
        """
        return environment

    def run(self, job: Job) -> int:
        """Start a job, wait for it, and return its exit status; a KeyboardInterrupt ends all its processes."""
        environment = self.prepare(job, os.environ | {"PYTHONSAFEPATH": "1"})
        # In a process group of its own: signals that a terminal or a scheduler sends to this process's group do not
        # reach the launcher directly; this process passes them on.
        process = subprocess.Popen(
            self.command(job), cwd=job.folder, env=environment, process_group=0, preexec_fn=end_with_parent
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)  # launchers of several machines pass it on
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise


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
        """The number of processes; raises like :attr:`Launcher.world`."""
        return self.launcher.world

    @property
    def here(self) -> bool:
        """Whether it is one process on this machine: then the calling process does the work, and starts nothing."""
        return self.launcher.here
