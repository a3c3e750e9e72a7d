"""Signs of life between processes that nobody watches: srun, for one, lets the others run on when one is killed."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from types import TracebackType

import torch.distributed as dist

INTERVAL = 1.0  # seconds between two signs
GONE = 300  # intervals of this process without a sign of another, after which that one is taken for dead
GRACE = 20.0  # seconds for a process to notice by itself that another one has failed
FAILED = "failed"  # the key that says which process has failed, and its exit status


class Pulse:
    """Inside, this process shows that it lives, and is ended some time after another one has failed.

    It may wait for that one for ever, as in a collective between GPUs. A context manager.

    Args:
        store: of all processes.
        rank, world: of this process.
    """

    def __init__(self, store: dist.Store, rank: int, world: int) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        # By rank: the last count that was seen, and how many intervals ago it was seen first. Intervals rather than
        # seconds, for all processes of a job may be suspended together.
        self.seen: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> Pulse:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done.set()
        self.thread.join()

    def tell_failure(self, rank: int, status: int) -> None:
        """Tell the others that a process has failed; the first failure counts."""
        with suppress(RuntimeError):  # process 0 has ended, which the others notice
            self.store.compare_set(FAILED, "", f"{rank} {status}")

    def failure(self) -> int:
        """The exit status of a process that has failed; 0 if none has."""
        return int(self.store.get(FAILED).split()[1]) if self.store.check([FAILED]) else 0

    def _beat(self) -> None:
        while not self.done.wait(INTERVAL):
            try:
                self.store.add(f"pulse/{self.rank}", 1)
                if self.rank == 0:
                    self._look_for_the_dead()
                failed = self.store.check([FAILED])
            except RuntimeError:
                failed = True
            if failed and not self.done.wait(GRACE):
                print(f"Process {self.rank} ends because another one has failed.", file=sys.stderr, flush=True)
                os._exit(1)

    def _look_for_the_dead(self) -> None:
        for rank in range(1, self.world):
            count = self.store.add(f"pulse/{rank}", 0)
            before, age = self.seen.get(rank, (-1, 0))
            self.seen[rank] = (count, age + 1 if count == before else 0)
            if self.seen[rank][1] == GONE:
                print(f"Process {rank} has given no sign of life for {GONE * INTERVAL:.0f} s.", file=sys.stderr)
                self.tell_failure(rank, 1)
