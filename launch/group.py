"""The process group: rank, device, and collectives with gradient. A single process is a group of one."""

from __future__ import annotations

import gc
import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from launch.process import temporary_environment
from launch.visible_devices import let_deepspeed_ask_torch

# torch 2.14 renamed these, and warns of the old names.
ALL_GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
REDUCE_SCATTER = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
_until_left = ExitStack()  # closed by leave(): the environment variable that join() has set


@dataclass(frozen=True)
class Group:
    """This process's place in the process group.

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
        """Whether this is process 0, which writes the files and prints the progress."""
        return self.rank == 0


def join() -> Group:
    """Join the process group that the launcher's environment variables describe, or form a group of one.

    A launcher has set ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``; without ``RANK``,
    or with a ``WORLD_SIZE`` of 1, the group is of this process alone. ``LOCAL_RANK`` is made the number of this
    process's device until :func:`leave`, and nothing else is changed: DeepSpeed reads it from the environment in
    ``deepspeed.initialize``, and at ZeRO stage 3 also in the first training steps. A process that is in a group
    already stays in it.

    Raises:
        ValueError: if this process has no device, see :func:`check_device`.
    """
    return _join(_until_left)


def check_device(local_rank: int) -> int:
    """The number of the device of a process; 0 on the CPU.

    Args:
        local_rank: the number of the process among those of its machine.

    Raises:
        ValueError: if it sees accelerators, but fewer than there are processes.
    """
    if default_device().type == "cpu":
        return 0
    count = torch.accelerator.device_count()
    if count == 1:
        return 0  # some launchers, such as srun --gpus-per-task=1, show every process its own device only
    if local_rank >= count:
        raise ValueError(
            f"Process {local_rank} of this machine has no device: only {count} are visible, each for one process. "
            "Start fewer processes, or make more devices visible."
        )
    return local_rank


def _join(until_left: ExitStack) -> Group:
    device, alone = default_device(), "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1"
    _import_deepspeed(device)
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # On the CPU, where the number does not matter, it stays that of the process.
    number = 0 if alone else int(os.environ["LOCAL_RANK"])
    if device.type != "cpu":
        number = check_device(number)
        get_accelerator().set_device(number)
        device = torch.device(device.type, number)
    if os.environ.get("LOCAL_RANK") != str(number):
        until_left.enter_context(temporary_environment(LOCAL_RANK=str(number)))
    if not dist.is_initialized():
        address = {"init_method": f"tcp://127.0.0.1:{free_port()}", "rank": 0, "world_size": 1} if alone else {}
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, **address)
        gc.freeze()  # until the group is left: looking through all that was imported takes half a second each time
    return Group(dist.get_rank(), dist.get_world_size(), device)


def _import_deepspeed(device: torch.device) -> None:
    """Import DeepSpeed for computing on ``device``.

    DeepSpeed reads ``DS_ACCELERATOR`` when it is imported, and never again. Without it, on a machine that has no GPU,
    DeepSpeed warns that it has found none.
    """
    cpu = {"DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu")} if device.type == "cpu" else {}
    with temporary_environment(**cpu):
        import deepspeed
    if device.type == "cuda":
        let_deepspeed_ask_torch(os.environ)
    if device.type == "cpu":
        # DeepSpeed would compile collectives of its own; gloo's need no compiler on the user's machine.
        deepspeed.ops.__compatible_ops__ = defaultdict(bool)


def leave() -> None:
    """Leave the process group, if this process is in one, and restore the environment."""
    if dist.is_initialized():
        from deepspeed import comm

        # DeepSpeed's own function also drops the references to the group that DeepSpeed keeps.
        if comm.is_initialized():
            comm.destroy_process_group()
        else:
            dist.destroy_process_group()
        gc.collect()  # an engine and its group refer to each other, and the group has threads and connections
        gc.unfreeze()
    _until_left.close()


@contextmanager
def joined() -> Iterator[Group]:
    """Inside, this process is in a group, see :func:`join`; afterwards the environment is as before.

    A group of one that was formed here is left. A group of several is not: after an error in this process, leaving
    could block until the others leave too.
    """
    before = dist.is_initialized()
    with ExitStack() as at_end:
        group = _join(at_end)
        if group.world == 1 and not before:
            at_end.callback(leave)
        yield group


def default_device() -> torch.device:
    """What a process that is alone computes on: the accelerator, if this machine has one, else the CPU.

    As for DeepSpeed, ``DS_ACCELERATOR=cpu`` in the environment means the CPU in any case.
    """
    if os.environ.get("DS_ACCELERATOR") != "cpu" and torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error of a collective only says that another process has ended."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def free_port() -> int:
    """A TCP port of this machine that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port


class _Gather(torch.autograd.Function):
    """All-gather along rows; backward sums every process's gradient of this process's rows."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        world = dist.get_world_size()
        gathered = local.new_empty(world * local.shape[0], *local.shape[1:])
        getattr(dist, ALL_GATHER)(gathered, local.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (grad,) = grads
        own = grad.new_empty(len(grad) // dist.get_world_size(), *grad.shape[1:])
        getattr(dist, REDUCE_SCATTER)(own, grad.contiguous())
        return own


def gather(local: dict[str, torch.Tensor], group: Group) -> dict[str, torch.Tensor]:
    """All-gather with gradient: [n, …] of each process → [world · n, …] in rank order, all tensors in one collective.

    n may differ between tensors.

    The gradient that reaches ``local`` is the *sum* over processes. Data parallelism then averages the parameters'
    gradients over processes, and the result is the gradient of the mean of the processes' losses (``losses/rows.py``).

    Args:
        local: tensors of one dtype, each with the same n on every process.
    """
    if group.world == 1:
        return local
    flat = torch.cat([value.flatten() for value in local.values()])
    gathered: torch.Tensor = _Gather.apply(flat[None])
    parts = gathered.split([value.numel() for value in local.values()], dim=1)
    return {name: part.reshape(-1, *value.shape[1:]) for (name, value), part in zip(local.items(), parts, strict=True)}


def total(values: list[float], group: Group) -> list[float]:
    """The sum of each number over all processes, in double precision, by one all-reduce."""
    if group.world == 1:
        return values
    summed = torch.tensor(values, dtype=torch.float64, device=group.device)
    dist.all_reduce(summed)
    return list(summed.tolist())


def gather_objects(value: Any, group: Group) -> list[Any]:
    """Every process's ``value``, in rank order: for small Python objects, and seldom, since they are pickled."""
    if group.world == 1:
        return [value]
    values: list[Any] = [None] * group.world
    dist.all_gather_object(values, value)
    return values


def barrier(group: Group) -> None:
    """Wait until every process has called this."""
    if group.world > 1:
        dist.barrier()
