"""Name the process that the others wait for.

A collective that one process does not join blocks the others without any message. Here each process publishes every
few seconds, in a key-value store of its own beside the process group, which phase of which step it is in. When the job
stalls, one process reports which one is behind, or which one publishes nothing any more.
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

from launch.group import Group, barrier, free_port, gather_objects

PHASES = ("loading", "computing", "evaluating", "saving")  # of a step, in the order in which they come
REPEAT = 60.0  # seconds between two messages
NONE_BEHIND = 10.0  # factor on the timeout if all processes compute the same step: it may just take long


@dataclass
class Heartbeat:
    """What a process publishes about itself.

    Attributes:
        count: increases with every heartbeat. If it does not, the process is stopped or cannot reach the store.
        step, phase: what the process is doing; the phase is an index of :data:`PHASES`.
        age: seconds since it began that phase.
        name: of the process, for messages.
    """

    count: int
    step: int
    phase: int
    age: float
    name: str

    @property
    def doing(self) -> str:
        return f"{PHASES[self.phase]} step {self.step}"


class Watchdog:
    """Reports stalls of a job from two background threads in each of its processes. A context manager.

    One thread exchanges heartbeats, and may block when the store does not answer. The other one checks them, and
    therefore never uses the store.

    Args:
        group: the processes. All of them must construct their watchdog at the same point of the program.
        timeout: seconds after which a process that the others wait for is reported.
        report: called with the message, from a thread.
    """

    def __init__(self, group: Group, timeout: float, report: Callable[[str], object]) -> None:
        self.group, self.timeout, self.report = group, timeout, report
        self.own = Heartbeat(0, 0, 0, 0.0, f"process {group.rank} ({socket.gethostname()}, pid {os.getpid()})")
        self.interval = min(5.0, timeout / 4)
        self.phase_began = self.last_exchange = self.next_report = time.monotonic()
        self.received: dict[int, tuple[Heartbeat, float]] = {}  # by rank: the newest, and when it was received
        self.closed = threading.Event()
        self.store = self._connect()
        self._publish()
        barrier(group)
        self.threads = [threading.Thread(target=loop, daemon=True) for loop in (self._exchange_loop, self._check_loop)]

    def _connect(self) -> dist.Store | None:
        """The store, which process 0 serves; None if there is one process only, or it cannot be reached."""
        if self.group.world == 1:
            return None
        port = gather_objects(free_port() if self.group.first else None, self.group)[0]
        address, timeout = os.environ["MASTER_ADDR"], timedelta(seconds=max(2.0, self.timeout))
        try:
            return dist.TCPStore(address, port, self.group.world, self.group.first, timeout, wait_for_workers=False)
        except RuntimeError as error:  # such as a firewall between hosts; training works without the watchdog
            self.report(f"{self.own.name} cannot reach {address}:{port}, so nobody hears where it stands: {error}")
            return None

    def __enter__(self) -> Watchdog:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed.set()
        if error is None:
            barrier(self.group)  # process 0 must not close the store while another process still reads from it

    def at(self, step: int, phase: str) -> None:
        """Call this when this process begins a phase of a step."""
        self.own.step, self.own.phase, self.phase_began = step, PHASES.index(phase), time.monotonic()

    def _exchange_loop(self) -> None:
        while not self.closed.wait(self.interval):
            with suppress(RuntimeError):  # process 0 has ended, and the store with it
                self._publish()
                self._receive()
                self.last_exchange = time.monotonic()

    def _publish(self) -> None:
        now = time.monotonic()
        self.own.count, self.own.age = self.own.count + 1, now - self.phase_began
        if self.store is None:
            self.received[self.group.rank] = self.own, now
        else:
            self.store.set(str(self.group.rank), json.dumps(asdict(self.own)))

    def _receive(self) -> None:
        if self.store is None:
            return
        now, ranks = time.monotonic(), range(self.group.world)
        for rank, text in zip(ranks, self.store.multi_get([str(rank) for rank in ranks]), strict=True):
            heartbeat = Heartbeat(**json.loads(text))
            if rank not in self.received or self.received[rank][0].count != heartbeat.count:
                self.received[rank] = heartbeat, now

    def _check_loop(self) -> None:
        while not self.closed.wait(self.interval):
            stall = self._stall()
            if stall and time.monotonic() >= self.next_report:
                self.next_report = time.monotonic() + REPEAT
                self.report(f"Training waits: {stall}.")

    def _stall(self) -> str:
        """Which process the others wait for; empty if they do not wait, or if another process reports it."""
        now = time.monotonic()
        if now - self.last_exchange > self.timeout:
            first = self.received[0][0].name if 0 in self.received else "process 0"
            # One process of every host reports this, and process 1, which may be on the host of process 0.
            reports = self.group.rank == 1 or os.environ.get("LOCAL_RANK") == "0"
            return f"{first} does not answer" if reports else ""
        if not self.received:
            return ""
        ages = {rank: now - received for rank, (_, received) in self.received.items()}
        silent = {rank: age for rank, age in ages.items() if age > self.timeout}
        if self.group.rank != min(self.received.keys() - silent.keys(), default=self.group.rank):
            return ""
        if silent:
            return "; ".join(
                f"{self.received[rank][0].name} has not been heard of for {age:.0f} s, "
                f"last {self.received[rank][0].doing}"
                for rank, age in silent.items()
            )
        heartbeats = [heartbeat for heartbeat, _ in self.received.values()]
        least, most = min((h.step, h.phase) for h in heartbeats), max((h.step, h.phase) for h in heartbeats)
        behind = [h for h in heartbeats if (h.step, h.phase) == least]
        timeout = self.timeout * (1 if least != most or PHASES[least[1]] == "loading" else NONE_BEHIND)
        if min(h.age for h in behind) < timeout:
            return ""
        return "; ".join(f"{h.name} has been {h.doing} for {h.age:.0f} s" for h in behind[:8])
