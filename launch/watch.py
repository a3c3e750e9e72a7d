"""Naming the process that the others wait for.

A collective that one process does not join waits without a word. Here each process tells the others every few seconds,
through a store of its own beside the process group, where it stands; whoever is behind, or silent, is named.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

from launch.group import Group, barrier, everyones, free_port

PHASES = ("loading", "computing", "saving")  # of a step, in the order in which they come
REPEAT = 60.0  # seconds until the same is said again
ALONE = 10.0  # times as patient where nobody is behind: a step may just take long


@dataclass
class Beat:
    """Where a process stands.

    Attributes:
        count: goes up with every beat; a process whose count stands still is stopped, or cut off.
        step, phase: what it is doing, the phase as an index of :data:`PHASES`.
        age: seconds since it began that.
        name: of the process, for people.
    """

    count: int
    step: int
    phase: int
    age: float
    name: str

    @property
    def doing(self) -> str:
        return f"{PHASES[self.phase]} step {self.step}"


class Watch:
    """Looks after all processes of a job, from a thread in each of them.

    Args:
        group: the processes. Every one must make its watch at the same time.
        patience: seconds after which a process that is waited for is named.
        say: is given the sentence.
    """

    def __init__(self, group: Group, patience: float, say: Callable[[str], object]) -> None:
        self.group, self.patience, self.say = group, patience, say
        self.own = Beat(0, 0, 0, 0.0, f"process {group.rank} ({socket.gethostname()}, pid {os.getpid()})")
        self.pause = min(5.0, patience / 4)
        self.began = self.heard = self.next = time.monotonic()
        self.seen: dict[int, tuple[Beat, float]] = {}
        self.over = threading.Event()
        self.store = self._store()
        self._tell()
        barrier(group)
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self._talk, self._mind)]

    def _store(self) -> dist.Store | None:
        if self.group.world == 1:
            return None
        port = everyones(free_port() if self.group.first else None, self.group)[0]
        address, timeout = os.environ["MASTER_ADDR"], timedelta(seconds=max(2.0, self.patience))
        try:
            return dist.TCPStore(address, port, self.group.world, self.group.first, timeout, wait_for_workers=False)
        except RuntimeError as error:  # a firewall between hosts: no reason not to train
            self.say(f"{self.own.name} cannot reach {address}:{port}, so nobody hears where it stands: {error}")
            return None

    def __enter__(self) -> Watch:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        if error is None:
            barrier(self.group)  # nobody may miss the store while he still looks into it

    def at(self, step: int, phase: str) -> None:
        """This process begins a phase of a step."""
        self.own.step, self.own.phase, self.began = step, PHASES.index(phase), time.monotonic()

    def _tell(self) -> None:
        now = time.monotonic()
        self.own.count, self.own.age = self.own.count + 1, now - self.began
        if self.store is None:
            self.seen[self.group.rank] = self.own, now
        else:
            self.store.set(str(self.group.rank), json.dumps(asdict(self.own)))

    def _talk(self) -> None:
        """Tell the others where this process stands, and hear where they do. May hang with the store."""
        while not self.over.wait(self.pause):
            with suppress(RuntimeError):  # the store is the first process's, and goes with it
                self._tell()
                self._look()
                self.heard = time.monotonic()

    def _mind(self) -> None:
        """Say who is waited for, now and then."""
        while not self.over.wait(self.pause):
            sentence = self._judge()
            if sentence and time.monotonic() >= self.next:
                self.next = time.monotonic() + REPEAT
                self.say(f"Training waits: {sentence}.")

    def _look(self) -> None:
        if self.store is None:
            return
        now, ranks = time.monotonic(), range(self.group.world)
        for rank, text in zip(ranks, self.store.multi_get([str(rank) for rank in ranks]), strict=True):
            beat = Beat(**json.loads(text))
            if rank not in self.seen or self.seen[rank][0].count != beat.count:
                self.seen[rank] = beat, now

    def _judge(self) -> str:
        """Who is waited for, as half a sentence; empty where nobody is, or where another process says it."""
        now = time.monotonic()
        if now - self.heard > self.patience:
            first = self.seen[0][0].name if 0 in self.seen else "process 0"
            # One on every host: the second process may be on the same one as the first.
            speaks = self.group.rank == 1 or os.environ.get("LOCAL_RANK") == "0"
            return f"{first} does not answer" if speaks else ""
        if not self.seen:
            return ""
        silent = {rank: now - heard for rank, (_, heard) in self.seen.items() if now - heard > self.patience}
        speaker = min((rank for rank in self.seen if rank not in silent), default=self.group.rank)
        if speaker != self.group.rank:
            return ""
        if silent:
            return "; ".join(
                f"{self.seen[rank][0].name} has not been heard of for {seconds:.0f} s, last {self.seen[rank][0].doing}"
                for rank, seconds in silent.items()
            )
        beats = [beat for beat, _ in self.seen.values()]
        least, most = min((b.step, b.phase) for b in beats), max((b.step, b.phase) for b in beats)
        behind = [b for b in beats if (b.step, b.phase) == least]
        patience = self.patience * (1 if least != most or PHASES[least[1]] == "loading" else ALONE)
        if min(b.age for b in behind) < patience:
            return ""
        return "; ".join(f"{b.name} has been {b.doing} for {b.age:.0f} s" for b in behind[:8])
