"""Batches loaded ahead, by processes of their own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from distill.data.batch import Batch
from distill.errors import UserError
from launch.process import end_with_parent, keep_freed_memory

AHEAD = 4  # batches a loader process has ready
SECONDS = 5  # that one gets to close what it has open
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
    with closing(ahead(dataset, workers, pin, collate_fn=_whole, **asked)) as loader:
        for share in loader if schedule is None else _grouped(loader, pieces):
            for piece in share:
                if isinstance(piece, UserError):
                    raise piece
            yield share


def ahead(dataset: Dataset[Any], workers: int, pin: bool, **asked: Any) -> Generator[Any]:
    """What torch's ``DataLoader`` gives, from processes that end with this generator or this process.

    Args:
        asked: the loader's other arguments.
    """
    others = set(multiprocessing.active_children())
    loader = iter(
        DataLoader(
            dataset,
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=AHEAD if workers else None,
            worker_init_fn=_begin,
            **asked,
        )
    )
    own = [process for process in multiprocessing.active_children() if process not in others]
    # An error that ends this process may keep a reference to the generator, so that its "finally" does not run; and
    # multiprocessing would send the loader processes SIGTERM, which they ignore.
    at_exit = multiprocessing.util.Finalize(None, _end, (own,), exitpriority=LAST)
    try:
        yield from loader
    finally:
        _interrupt(own)
        del loader
        at_exit()


def _interrupt(own: list[BaseProcess]) -> None:
    for process in own:
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGINT)  # or one that waits for a server would be waited for


def _end(own: list[BaseProcess]) -> None:
    _interrupt(own)
    for process in own:
        process.join(SECONDS)
        process.kill()


def _grouped(loader: Iterator[Any], pieces: int) -> Iterator[list[Any]]:
    while share := list(islice(loader, pieces)):
        yield share


def _begin(number: int) -> None:
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
