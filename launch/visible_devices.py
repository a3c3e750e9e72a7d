"""Which accelerators the processes of this machine may use, as its environment says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

NONE = "-1"  # in a list of devices: neither this one nor any after it
# By type of device. On ROCm, where the type is "cuda" too, HIP_VISIBLE_DEVICES comes first.
VARIABLES = {"xpu": "ZE_AFFINITY_MASK", "npu": "ASCEND_RT_VISIBLE_DEVICES", "mlu": "MLU_VISIBLE_DEVICES"}

NOTHING = ("", NONE, "NoDevFiles")  # the last is what Slurm sets for a job without GPUs
DRIVERS = ("nvidiactl", "kfd")  # of NVIDIA and AMD


def variables() -> tuple[str, ...]:
    """The environment variables that say which devices of this machine are visible; the first that is set counts."""
    accelerator = torch.accelerator.current_accelerator()
    name = VARIABLES.get(accelerator.type if accelerator else "", "CUDA_VISIBLE_DEVICES")
    return ("HIP_VISIBLE_DEVICES", name) if torch.version.hip else (name,)


def setting(environment: Mapping[str, str]) -> str | None:
    """What the environment says, as it is written; None if it says nothing, so that all devices are visible."""
    return next((environment[name] for name in variables() if name in environment), None)


def check_seen(environment: Mapping[str, str], system: Path = Path("/dev")) -> None:
    """Raise ValueError if devices are named of which this machine, which has some, shows none: else the CPU is used.

    Args:
        environment: of this process.
        system: where the system has its devices.
    """
    value = setting(environment)
    if value is None or value.strip() in NOTHING or environment.get("DS_ACCELERATOR") == "cpu":
        return
    if not torch.accelerator.is_available() and any((system / name).exists() for name in DRIVERS):
        raise ValueError(
            f"'{value}' names no device of this machine that torch can use. "
            f"Correct {' or '.join(variables())}, or set DS_ACCELERATOR=cpu to compute on the CPU."
        )


def devices_for(count: int, environment: Mapping[str, str]) -> list[str]:
    """The devices for so many processes, as the environment writes them: numbers, or the names of GPUs or MIG parts.

    DeepSpeed's launcher joins them to the list of visible devices of every process, one entry for each. If fewer are
    visible than there are processes, as on the CPU, the entries behind are :data:`NONE`.
    """
    value = setting(environment)
    if value is None:
        return [str(number) for number in range(count)]
    visible: list[str] = []
    for device in map(str.strip, value.split(",")):
        if device in NOTHING:
            break
        visible.append(device)
    return [*visible[:count], *[NONE] * (count - len(visible))]


def let_deepspeed_ask_torch(environment: Mapping[str, str]) -> None:
    """Where devices are not visible by their numbers, have DeepSpeed ask torch for a GPU's free memory.

    Otherwise ``CUDA_Accelerator.available_memory``, which ZeRO 1 and 2 call, asks the driver, and fails to read
    ``CUDA_VISIBLE_DEVICES``.
    """
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if value is not None and not all(device.strip().isdecimal() for device in value.split(",")):
        from deepspeed.accelerator import cuda_accelerator

        cuda_accelerator.pynvml = None
