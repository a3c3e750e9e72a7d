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
from launch.visible_devices import check_seen, devices_for, setting


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
        """Raise ValueError if this machine shows fewer accelerators than processes, or none of those named."""
        check_seen(os.environ)
        if default_device().type != "cpu" and self.nproc > torch.accelerator.device_count():
            found, value = torch.accelerator.device_count(), setting(os.environ)
            where = "this machine has" if value is None else f"'{value}' makes visible"
            raise ValueError(f"--nproc {self.nproc} asks for more devices than {where} ({found}). Lower it.")

    def command(self, job: Job) -> list[str]:
        devices = devices_for(self.nproc, os.environ)
        world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
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


LAUNCHER = Local
