"""The process group: rank, device, collectives with gradient. One process is a group of one."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from launch.memory import keep_freed_memory


@dataclass(frozen=True)
class Group:
    """Where this process stands.

    Attributes:
        rank: 0 to world − 1.
        world: number of processes.
        device: what this process computes on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0


def start() -> Group:
    """Join the process group that the launcher's environment describes, or form one of a single process."""
    environment = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    if "RANK" not in os.environ:
        os.environ.update(environment | {"MASTER_PORT": str(free_port())})
    device = default_device()
    if device.type == "cpu":
        # Otherwise DeepSpeed warns that it has found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    local_rank = int(os.environ["LOCAL_RANK"])
    if device.type == "cpu":
        # DeepSpeed would compile its own collectives; gloo's need no compiler on the user's machine.
        deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    else:
        get_accelerator().set_device(local_rank)
        device = torch.device(device.type, local_rank)
    if not dist.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return Group(dist.get_rank(), dist.get_world_size(), device)


def default_device() -> torch.device:
    """What a process that is alone computes on: the accelerator, if this machine has one.

    ``DS_ACCELERATOR=cpu`` keeps it, like DeepSpeed, on the CPU.
    """
    if os.environ.get("DS_ACCELERATOR") != "cpu" and torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    keep_freed_memory()
    return torch.device("cpu")


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def ended(error: RuntimeError) -> bool:
    """Whether an error only says that another process is not there any more."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port


class _Gather(torch.autograd.Function):
    """All-gather along rows; backward sums every process's gradient of this process's rows."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        world = dist.get_world_size()
        everyone = local.new_empty(world * local.shape[0], *local.shape[1:])
        dist.all_gather_into_tensor(everyone, local.contiguous())
        return everyone

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (grad,) = grads
        own = grad.new_empty(len(grad) // dist.get_world_size(), *grad.shape[1:])
        dist.reduce_scatter_tensor(own, grad.contiguous())
        return own


def gather(local: dict[str, torch.Tensor], group: Group) -> dict[str, torch.Tensor]:
    """[n, …] of each process → [world · n, …] in rank order, with gradient; all tensors in one collective.

    The gradient that reaches ``local`` is the *sum* over processes; data-parallel averaging of parameter
    gradients then yields the gradient of the mean over processes of their losses (``losses/rows.py``).

    Args:
        local: tensors of one dtype, with the same n on every process.
    """
    if group.world == 1:
        return local
    flat = [value.flatten(1) for value in local.values()]
    everyone: torch.Tensor = _Gather.apply(torch.cat(flat, dim=1))
    parts = everyone.split([part.shape[1] for part in flat], dim=1)
    return {name: part.unflatten(1, value.shape[1:]) for (name, value), part in zip(local.items(), parts, strict=True)}


def total(values: list[float], group: Group) -> list[float]:
    """The sums of some numbers over all processes, in double precision and one collective."""
    if group.world == 1:
        return values
    summed = torch.tensor(values, dtype=torch.float64, device=group.device)
    dist.all_reduce(summed)
    return list(summed.tolist())


def everyones(value: Any, group: Group) -> list[Any]:
    """What every process has, in the order of their ranks: small Python objects, and rarely."""
    found: list[Any] = [value]
    if group.world > 1:
        found = [None] * group.world
        dist.all_gather_object(found, value)
    return found


def barrier(group: Group) -> None:
    """Wait for every process."""
    if group.world > 1:
        dist.barrier()
