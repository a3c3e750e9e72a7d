"""Command lines that start many processes, through DeepSpeed's own launchers.

Workers are a script with an absolute path, started in a folder of ours and with Python's safe path: a
``losses.py`` in the folder a user happens to be in must not take the place of ours.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from launch.group import default_device, free_port


@dataclass(frozen=True)
class Job:
    """What to start, and where.

    Attributes:
        script: the worker, an absolute path that exists on every host.
        arguments: of the worker.
        folder: the working directory, on every host; environment for other hosts is left there.
        nproc: processes on this machine, when there is no host file.
        hostfile: DeepSpeed's host file, lines of ``HOST slots=N``; None for this machine alone.
        master_addr: the address of the first host that all hosts can reach; "" lets DeepSpeed ask it.
    """

    script: Path
    arguments: tuple[str, ...]
    folder: Path
    nproc: int = 1
    hostfile: Path | None = None
    master_addr: str = ""

    @property
    def world(self) -> int:
        """The number of processes; raises like :func:`slots`."""
        return slots(self.hostfile) if self.hostfile else self.nproc

    @property
    def here(self) -> bool:
        """Whether one process on this machine is all there is to it: no launcher is needed."""
        return self.hostfile is None and self.nproc == 1


CARRIED = ("DS_", "DEEPSPEED_", "OMP_", "NCCL_", "GLOO_", "TORCH_", "HF_", "CUDA_VISIBLE_DEVICES")


def local_command(job: Job) -> list[str]:
    """``nproc`` processes on this machine, through ``deepspeed.launcher.launch``."""
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices(job.nproc)}).encode()).decode()
    return [
        *(sys.executable, "-u", "-m", "deepspeed.launcher.launch"),
        f"--world_info={world}",
        "--master_addr=127.0.0.1",
        f"--master_port={free_port()}",
        *("--no_local_rank", "--quiet"),
        str(job.script),
        *job.arguments,
    ]


def devices(count: int) -> list[int]:
    """The numbers of the devices to use: DeepSpeed's launcher overwrites ``CUDA_VISIBLE_DEVICES`` with them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(number) for number in visible if number.strip().isdigit()]
    return numbers[:count] if len(numbers) >= count else list(range(count))


def slots(hostfile: Path) -> int:
    """The number of processes a host file asks for.

    Raises:
        ValueError: if it is missing, names no host or one twice, or has a line of another form.
    """
    return sum(hosts(hostfile).values())


def hosts(hostfile: Path) -> dict[str, int]:
    """The hosts of a host file and the slots of each; raises like :func:`slots`."""
    form = "Write one line a host: NAME slots=GPUS"
    if not hostfile.is_file():
        raise ValueError(f"The host file {hostfile} does not exist. {form}")
    text = hostfile.read_text(encoding="utf-8", errors="replace")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    found = [re.fullmatch(r"(\S+)\s+slots=([1-9]\d*)", line) for line in lines if line]
    if not found or not all(found):
        raise ValueError(f"The host file {hostfile} does not say which hosts have how many slots. {form}")
    counts = {match[1]: int(match[2]) for match in found if match}
    if len(counts) < len(found):
        raise ValueError(f"The host file {hostfile} names a host twice. {form}")
    return counts


def hosts_command(job: Job) -> list[str]:
    """The processes a host file names, through ``deepspeed.launcher.runner`` and pdsh."""
    assert job.hostfile is not None
    master = [f"--master_addr={job.master_addr}"] if job.master_addr else []
    return [
        *(sys.executable, "-u", "-m", "deepspeed.launcher.runner"),
        f"--hostfile={job.hostfile.absolute()}",
        *("--launcher", "pdsh", "--force_multi", "--no_local_rank", "--quiet"),
        *master,
        f"--master_port={free_port()}",
        str(job.script),
        *job.arguments,
    ]


def check_hosts(job: Job) -> None:
    """Log in to every host and look for what the job needs there.

    DeepSpeed tries the first host only, and the processes of the others wait ten minutes for one that is missing.

    Raises:
        ConnectionError: naming the first host that is not ready.
    """
    assert job.hostfile is not None
    shared = next(folder for folder in job.folder.parents if folder.exists())
    needs = (sys.executable, str(job.script), str(shared))
    look = " && ".join(f"test -e {shlex.quote(path)}" for path in needs)
    ssh = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
    logins = {
        host: subprocess.Popen([*ssh, host, look], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for host in hosts(job.hostfile)
    }
    said = {host: login.communicate()[1].strip() for host, login in logins.items()}
    for host, login in logins.items():
        if login.returncode:
            raise ConnectionError(
                f"The host '{host}' is not ready{said[host] and f' ({said[host]})'}. It must let you in by ssh "
                f"without a password, and have {', '.join(needs[:2])} and {needs[2]} under these names."
            )


def check(job: Job) -> None:
    """Find out whether a job can be started, before any work is done for it.

    Raises:
        ValueError: if this machine has fewer GPUs than processes are asked for.
        ImportError: if a host file is given and pdsh is not installed.
        ConnectionError: if a host is not ready.
    """
    if job.hostfile:
        if shutil.which("pdsh") is None:
            raise ImportError("DeepSpeed starts several hosts through pdsh, which is not installed. Install pdsh.")
        check_hosts(job)
    elif default_device().type != "cpu" and job.nproc > torch.accelerator.device_count():
        found = torch.accelerator.device_count()
        raise ValueError(f"--nproc {job.nproc} asks for more devices than this machine has ({found}). Lower it.")


def run(job: Job) -> int:
    """Start a job, wait for it, and return its exit status; an interrupt reaches every process."""
    command = hosts_command(job) if job.hostfile else local_command(job)
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    if not job.hostfile and default_device().type == "cpu":
        # Not for other hosts: this one may be a login node without a GPU.
        environment.setdefault("DS_ACCELERATOR", "cpu")
    if job.nproc > 1 and not job.hostfile:
        # Without this every process takes all cores for itself.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // job.nproc)))
    if job.hostfile:
        # DeepSpeed carries PYTHON* to the other hosts, and what this file in the working directory says.
        # A token is nobody else's: it would stand in that file, and in every host's list of processes.
        carried = {k: v for k, v in environment.items() if k.startswith(CARRIED) and k != "HF_TOKEN"}
        (job.folder / ".deepspeed_env").write_text("".join(f"{k}={v}\n" for k, v in sorted(carried.items())))
    # In a group of its own: what a terminal or a scheduler sends to this one's group is for this process to pass on.
    process = subprocess.Popen(command, cwd=job.folder, env=environment, process_group=0, preexec_fn=end_with_parent)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """In a new process: be sent a signal when the one that has started it is gone (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(by))  # PR_SET_PDEATHSIG


@contextmanager
def on_termination(tell: Callable[[], object]) -> Iterator[None]:
    """Inside, SIGTERM calls ``tell``: whoever was told ends in his own time. A second one interrupts.

    So does the first one where telling fails.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        told.append(number)
        try:
            if len(told) == 1:
                tell()
        except OSError:
            told.append(number)
        if len(told) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
