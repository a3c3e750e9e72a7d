"""Processes on the machines of a host file, through ``deepspeed.launcher.runner``, pdsh and ssh."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from launch.group import free_port
from launch.launcher import Job, Launcher

FORMAT = "Write one line a host: NAME slots=GPUS"
# DeepSpeed copies these environment variables to the other hosts.
COPIED = ("DS_", "DEEPSPEED_", "OMP_", "NCCL_", "GLOO_", "TORCH_", "HF_", "CUDA_VISIBLE_DEVICES")


class HostFile(Launcher):
    """As many processes on each host as it has slots.

    Attributes:
        hostfile: DeepSpeed's host file, lines of ``HOST slots=N``.
        master_addr: the address of the first host, reachable from all hosts; "" lets DeepSpeed ask that host for it.
    """

    hostfile: Path
    master_addr: str = ""

    @property
    def world(self) -> int:
        return sum(slots(self.hostfile).values())

    def check(self, job: Job) -> None:
        """Log in to every host and look for the files that the job needs there.

        DeepSpeed itself tries only the first host, and when another one is missing, the processes wait ten minutes
        for it.

        Raises:
            ValueError: see :func:`slots` and :func:`check_devices`.
            ImportError: if pdsh is not installed.
            ConnectionError: naming the first host that is not ready.
        """
        check_devices(slots(self.hostfile), os.environ)
        if shutil.which("pdsh") is None:
            raise ImportError("DeepSpeed starts several hosts through pdsh, which is not installed. Install pdsh.")
        shared = next(folder for folder in job.folder.parents if folder.exists())
        needs = (sys.executable, str(job.script), str(shared))
        test = " && ".join(f"test -e {shlex.quote(path)}" for path in needs)
        ssh = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
        logins = {
            host: subprocess.Popen([*ssh, host, test], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for host in slots(self.hostfile)
        }
        errors = {host: login.communicate()[1].strip() for host, login in logins.items()}
        for host, login in logins.items():
            if login.returncode:
                reason = f" ({errors[host]})" if errors[host] else ""
                raise ConnectionError(
                    f"The host '{host}' is not ready{reason}. It must let you in by ssh without a password, "
                    f"and have {', '.join(needs[:2])} and {needs[2]} under these names."
                )

    def command(self, job: Job) -> list[str]:
        master = [f"--master_addr={self.master_addr}"] if self.master_addr else []
        return [
            *(sys.executable, "-u", "-m", "deepspeed.launcher.runner"),
            f"--hostfile={self.hostfile.absolute()}",
            *("--launcher", "pdsh", "--force_multi", "--no_local_rank", "--quiet"),
            *master,
            f"--master_port={free_port()}",
            str(job.script),
            *job.arguments,
        ]

    def prepare(self, job: Job, environment: dict[str, str]) -> dict[str, str]:
        """Write the variables for the other hosts into the file that DeepSpeed's runner reads in its working folder.

        DeepSpeed itself copies those that begin with ``PYTHON``. The accelerator is not decided here, but on each
        host: this machine may be a login node without a GPU.
        """
        # HF_TOKEN is a secret, and would be readable in that file and in the process list of every host.
        copied = {k: v for k, v in environment.items() if k.startswith(COPIED) and k != "HF_TOKEN"}
        (job.folder / ".deepspeed_env").write_text("".join(f"{k}={v}\n" for k, v in sorted(copied.items())))
        return environment


def check_devices(counts: Mapping[str, int], environment: Mapping[str, str]) -> None:
    """Raise ValueError if the environment chooses devices: DeepSpeed's runner would use others.

    It numbers the devices of every host from 0 to its slots, whatever is set here or there.
    """
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if value is None or environment.get("DS_ACCELERATOR") == "cpu":
        return
    used = [str(number) for number in range(max(counts.values()))]
    if value.replace(" ", "").split(",")[: len(used)] != used:
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={value} has no effect on the hosts of a host file, where DeepSpeed uses "
            f"the devices {','.join(used)}. Unset it, or start distill with srun or torchrun, which leave it as it is."
        )


def slots(hostfile: Path) -> dict[str, int]:
    """The hosts of a host file, and the number of processes for each.

    Raises:
        ValueError: if it is missing, names no host or one twice, or has a line of another form.
    """
    if not hostfile.is_file():
        raise ValueError(f"The host file {hostfile} does not exist. {FORMAT}")
    text = hostfile.read_text(encoding="utf-8", errors="replace")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    found = [re.fullmatch(r"(\S+)\s+slots=([1-9]\d*)", line) for line in lines if line]
    if not found or not all(found):
        raise ValueError(f"The host file {hostfile} does not say which hosts have how many slots. {FORMAT}")
    counts = {match[1]: int(match[2]) for match in found if match}
    if len(counts) < len(found):
        raise ValueError(f"The host file {hostfile} names a host twice. {FORMAT}")
    return counts


LAUNCHER = HostFile
