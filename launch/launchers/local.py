"""Processes on this machine, through ``deepspeed.launcher.launch``."""

from __future__ import annotations

import base64
import json
import os
import sys

import torch
from pydantic import Field

from launch.group import default_device, free_port
from launch.launcher import Job, Launcher


class Local(Launcher):
    """Processes on this machine.

    Attributes:
        nproc: how many; on accelerators, each process uses one.
    """

    nproc: int = Field(default=1, ge=1)

    @property
    def world(self) -> int:
        return self.nproc

    @property
    def here(self) -> bool:
        return self.nproc == 1

    def check(self, job: Job) -> None:
        """Raise ValueError if this machine has fewer accelerators than there are to be processes."""
        if default_device().type != "cpu" and self.nproc > torch.accelerator.device_count():
            found = torch.accelerator.device_count()
            raise ValueError(f"--nproc {self.nproc} asks for more devices than this machine has ({found}). Lower it.")

    def command(self, job: Job) -> list[str]:
        world = base64.urlsafe_b64encode(json.dumps({"localhost": device_numbers(self.nproc)}).encode()).decode()
        return [
            *(sys.executable, "-u", "-m", "deepspeed.launcher.launch"),
            f"--world_info={world}",
            "--master_addr=127.0.0.1",
            f"--master_port={free_port()}",
            *("--no_local_rank", "--quiet"),
            str(job.script),
            *job.arguments,
        ]

    def prepare(self, job: Job, environment: dict[str, str]) -> dict[str, str]:
        defaults = {}
        if default_device().type == "cpu":
            defaults["DS_ACCELERATOR"] = "cpu"  # otherwise DeepSpeed warns that it has found no GPU
        if self.nproc > 1:
            # Otherwise every process starts as many threads as this machine has cores.
            defaults["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.nproc))
        return defaults | environment


def device_numbers(count: int) -> list[int]:
    """The numbers of the devices to use: DeepSpeed's launcher overwrites ``CUDA_VISIBLE_DEVICES`` with them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(number) for number in visible if number.strip().isdigit()]
    return numbers[:count] if len(numbers) >= count else list(range(count))


LAUNCHER = Local
