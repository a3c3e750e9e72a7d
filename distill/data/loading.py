"""Batches loaded in advance by loader processes, which end with the process that uses them."""

from __future__ import annotations

import gc
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

PREFETCH = 4  # batches that each loader process holds ready
SECONDS_TO_END = 5  # for a loader process to close its files and connections before it is killed
RUN_LAST = 0  # the exit priority of multiprocessing's finalizers below which a process waits for its queues


def load_batches(
    dataset: Dataset[Any], workers: int, pin: bool, schedule: Sampler[Any] | None = None, pieces: int = 1
) -> Generator[list[Batch]]:
    """The batches of every step, in pieces, loaded in advance.

    Args:
        dataset: with a ``schedule``, gives one piece for each of its entries; without one, is iterable and gives lists
            of all the pieces of a step. A :class:`~distill.errors.UserError` in place of a piece is raised here.
        workers: number of loader processes; 0 loads in this process.
        pin: whether batches are put into pinned memory.
        schedule: a batch sampler: what to ask ``dataset`` for.
        pieces: the number of pieces in a step, where there is a ``schedule``.

    Raises:
        UserError: that the data set gave in place of a piece.
    """
    arguments: dict[str, Any] = {"batch_size": None} if schedule is None else {"batch_sampler": schedule}
    with closing(prefetch(dataset, workers, pin, collate_fn=_as_is, **arguments)) as loader:
        for step in loader if schedule is None else _groups(loader, pieces):
            for piece in step:
                if isinstance(piece, UserError):
                    raise piece
            yield step


def prefetch(dataset: Dataset[Any], workers: int, pin: bool, **arguments: Any) -> Generator[Any]:
    """The items of a ``torch.utils.data.DataLoader``, whose processes end with this generator and with this process.

    Args:
        dataset: map-style or iterable.
        workers: number of loader processes; 0 loads in this process.
        pin: whether tensors are put into pinned memory.
        arguments: further ones of ``DataLoader``.
    """
    others = set(multiprocessing.active_children())
    loader = iter(
        DataLoader(
            dataset,
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_init_worker,
            **arguments,
        )
    )
    own = [process for process in multiprocessing.active_children() if process not in others]
    # Needed where this process ends by an exception whose traceback still refers to the generator, so that it is not
    # closed. multiprocessing itself would send SIGTERM, which the loader processes ignore.
    at_exit = multiprocessing.util.Finalize(None, _end_workers, (own,), exitpriority=RUN_LAST)
    try:
        yield from loader
    finally:
        _interrupt(own)
        del loader
        at_exit()


def _interrupt(workers: list[BaseProcess]) -> None:
    """Send SIGINT to loader processes: DataLoader would otherwise wait for one that is waiting for a server."""
    for process in workers:
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGINT)


def _end_workers(workers: list[BaseProcess]) -> None:
    """End loader processes: interrupt them all, and kill those that have not ended after ``SECONDS_TO_END``."""
    _interrupt(workers)
    for process in workers:
        process.join(SECONDS_TO_END)
        process.kill()


def _groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive items in lists of ``size``; the last list may be shorter."""
    while group := list(islice(items, size)):
        yield group


def _init_worker(number: int) -> None:
    """Set up a loader process before it loads anything.

    SIGTERM is ignored: it is sent to all processes of a job, and the training process then ends its loader processes
    itself. SIGINT raises KeyboardInterrupt, even where the process was started with SIGINT ignored, so that open files
    and connections are closed.

    What the training process had not freed yet when it was forked is never freed here. Among it may be the process
    group of an earlier training, whose destructor would wait for threads that only the training process has.
    """
    gc.freeze()
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.util.Finalize(None, _exit_if_orphaned, (os.getppid(),), exitpriority=RUN_LAST)
    end_with_parent(signal.SIGINT)


def _exit_if_orphaned(parent: int) -> None:
    """Exit at once if the training process has been killed: a normal exit waits until somebody empties the queue."""
    if os.getppid() != parent:
        os._exit(1)


def _as_is(batch: Any) -> Any:
    """The collate function: the data set gives whole batches already."""
    return batch
