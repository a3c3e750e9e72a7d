"""A launcher that starts plain processes on this machine, without DeepSpeed's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pydantic import Field

from launch.group import free_port
from launch.launcher import Job, Launcher


class Plain(Launcher):
    """So many processes on this machine.

    Attributes:
        count: of processes.
    """

    count: int = Field(default=2, gt=0)

    @property
    def world(self) -> int:
        return self.count

    def check(self, job: Job) -> None:
        """Nothing can be wrong."""

    def command(self, job: Job) -> list[str]:
        return [sys.executable, str(Path(__file__).resolve()), str(self.count), str(job.script), *job.arguments]


def main(count: int, words: list[str]) -> int:
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen([sys.executable, *words], env=os.environ | common | {"RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(count)
    ]
    return max(process.wait() for process in started)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
