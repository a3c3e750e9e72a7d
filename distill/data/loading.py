"""Batches loaded ahead, by processes of their own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from distill.data.batch import Batch
from distill.errors import UserError
from launch.command import end_with_parent
from launch.memory import keep_freed_memory

AHEAD = 4  # batches a loader process has ready
LAST = 0  # of what a process does when it ends, the last before it waits for its queues


def batches(
    dataset: Dataset[Any], workers: int, pin: bool, schedule: Sampler[Any] | None = None, pieces: int = 1
) -> Generator[list[Batch]]:
    """Every step's pieces, loaded ahead by ``workers`` processes; 0 loads in this one.

    Args:
        dataset: gives a piece for each entry of a schedule, or without one the pieces of a whole step at a time; where
            it cannot go on, a :class:`~distill.errors.UserError` in place of a piece.
        schedule: what to ask the data set for.
        pieces: of a step, where there is a schedule.

    Raises:
        UserError: if the data set cannot go on.
    """
    asked: dict[str, Any] = {"batch_size": None} if schedule is None else {"batch_sampler": schedule}
    others = set(multiprocessing.active_children())
    loader = iter(
        DataLoader(
            dataset,
            num_workers=workers,
            collate_fn=_whole,
            pin_memory=pin,
            prefetch_factor=AHEAD if workers else None,
            worker_init_fn=begin,
            **asked,
        )
    )
    try:
        shares = loader if schedule is None else _grouped(loader, pieces)
        for share in shares:
            for piece in share:
                if isinstance(piece, UserError):
                    raise piece
            yield share
    finally:
        own = [process for process in multiprocessing.active_children() if process not in others and process.pid]
        for process in own:
            os.kill(process.pid or 0, signal.SIGINT)  # or one that waits for a server would be waited for
        del shares, loader
        for process in own:
            process.kill()


def _grouped(loader: Iterator[Any], pieces: int) -> Iterator[list[Any]]:
    while share := list(islice(loader, pieces)):
        yield share


def begin(number: int) -> None:
    """What a loader process does first.

    SIGTERM to a whole job is for the training process to heed, which ends its loaders. SIGINT ends one at once,
    also below a shell that ignores it: what it has open is closed.
    """
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.util.Finalize(None, _leave_orphaned, (os.getppid(),), exitpriority=LAST)
    end_with_parent(signal.SIGINT)


def _leave_orphaned(parent: int) -> None:
    """Where the training process has been killed, nobody takes what is left in the queue: do not wait for it."""
    if os.getppid() != parent:
        os._exit(1)


def _whole(batch: Any) -> Any:
    """The data set hands out whole batches already."""
    return batch
