"""A job in processes that another program has started: torchrun, srun, mpirun, DeepSpeed's own launcher.

All of them run the same command. The first does the work and, where that needs several processes, has all of them run
a script, as any other launcher would. Until then the others wait for its orders in a key-value store, where nothing
times out: preparing a run can take hours, and a collective gives up after minutes.
"""

from __future__ import annotations

import base64
import os
import pickle
import runpy
import sys
import threading
import time
import traceback
from contextlib import chdir
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ConfigDict

from launch.described_group import Description
from launch.group import check_device, free_port
from launch.launcher import Job, Launcher
from launch.process import temporary_environment
from launch.pulse import FAILED, Pulse
from launch.visible_devices import check_seen

PATIENCE = timedelta(minutes=10)  # for all processes to start
SPEAK_AFTER = 20.0  # seconds of waiting for the others, before that is said
INTERVAL = 0.2  # seconds between two looks for news
FAREWELL = 20.0  # seconds for the others to read the last order


@dataclass(frozen=True)
class Order:
    """What the first process tells the others.

    Attributes:
        script, arguments, folder: see :class:`launch.launcher.Job`; all run it. None if this is the last order.
        port: where they meet for it, at the address of process 0.
        result: of the last order, what the work has come to.
        status: of the last order, the exit status if the work has failed; else 0.
    """

    script: str | None = None
    arguments: tuple[str, ...] = ()
    folder: str = ""
    port: int = 0
    result: Any = None
    status: int = 0


class StartedGroup(Launcher):
    """The processes that another program has started, this one among them.

    Attributes:
        description: the place of this process.
        store: shared by all of them; process 0 or torchrun serves it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    description: Description
    store: dist.Store

    @property
    def world(self) -> int:
        return self.description.world

    @property
    def rank(self) -> int:
        return self.description.rank

    def check(self, job: Job) -> None:
        """Do nothing: the processes run already."""

    def command(self, job: Job) -> list[str]:
        raise NotImplementedError("these processes are started already: run() has them run the script")

    def check_devices(self) -> None:
        """Raise ValueError in the first process if one of them has no device; then the others get their last order."""
        try:
            check_seen(os.environ)
            check_device(local_rank(self.description))
            self._set(f"device/{self.rank}", "")
        except ValueError as error:
            self._set(f"device/{self.rank}", str(error))
        if self.rank:
            return
        problems = [problem for rank in range(self.world) if (problem := self._wait(f"device/{rank}"))]
        if problems:
            self.end(None, 2)
            raise ValueError(problems[0])

    def run(self, job: Job) -> int:
        """In the first process: have all processes run the script of a job; see :meth:`launch.launcher.Launcher.run`.

        Returns:
            0, or the status of a process that failed; then some of the others may still be in the script, and no
            further job can be run.
        """
        number = self._number()
        self._give(Order(str(job.script), job.arguments, str(job.folder), free_port()))
        with Pulse(self.store, self.rank, self.world) as pulse:
            if own := self._execute(self._order(number), pulse):
                return own
            for rank in range(1, self.world):
                while not self.store.check([f"done/{number}/{rank}"]):
                    if status := pulse.failure():
                        return status
                    time.sleep(INTERVAL)
        return 0

    def serve(self) -> Order:
        """In the other processes: run scripts as ordered, until the last order, which is returned.

        If a script fails in this process, it is the last one, and the order says so.

        Raises:
            ConnectionError: if process 0 has ended without a last order.
        """
        number = 0
        while True:
            order = self._order(number)
            if order.script is None:
                self.store.add("farewell", 1)
                return order
            with Pulse(self.store, self.rank, self.world) as pulse:
                if status := self._execute(order, pulse):
                    return Order(status=status)
                self._set(f"done/{number}/{self.rank}", True)
            number += 1

    def end(self, result: Any, status: int) -> None:
        """In the first process: give the last order, and wait until the others have read it."""
        try:
            self._give(Order(result=result, status=status))
            end = time.monotonic() + FAREWELL
            while self.store.add("farewell", 0) < self.world - 1 and time.monotonic() < end:
                if self.store.check([FAILED]):
                    break
                time.sleep(INTERVAL)
        except RuntimeError:  # torchrun serves the store, and has ended
            pass

    def _number(self) -> int:
        """The number of the next order."""
        return int(self.store.add("orders", 0))

    def _give(self, order: Order) -> None:
        self._set(f"order/{self._number()}", order)
        self.store.add("orders", 1)

    def _order(self, number: int) -> Order:
        order: Order = self._wait(f"order/{number}")
        return order

    def _set(self, key: str, value: Any) -> None:
        self.store.set(key, base64.b64encode(pickle.dumps(value)).decode())

    def _wait(self, key: str) -> Any:
        """The value of a key, once it is set. Looks again and again, for signals are not handled inside the store."""
        try:
            while not self.store.check([key]):
                time.sleep(INTERVAL)
            return pickle.loads(base64.b64decode(self.store.get(key)))
        except RuntimeError as error:
            raise ConnectionError(
                f"Process {self.rank} ends because process 0, which the others wait for, does not answer any more. "
                "See the message of process 0."
            ) from error

    def _execute(self, order: Order, pulse: Pulse) -> int:
        """Run a script in this process as a process of its own would; return its exit status."""
        assert order.script is not None
        variables = {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(local_rank(self.description)),
            "WORLD_SIZE": str(self.world),
            "MASTER_ADDR": self.description.address,
            # A port of its own for each script: the group's processes leave traces at the place where they meet.
            "MASTER_PORT": str(order.port),
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }
        arguments, sys.argv = sys.argv, [order.script, *order.arguments]
        status = 1
        try:
            with temporary_environment(**variables), chdir(order.folder):
                status = _status(order.script)
        finally:
            sys.argv = arguments
            if status:
                pulse.tell_failure(self.rank, status)
        return status


def meet(description: Description) -> StartedGroup:
    """Meet the other processes of a group.

    Raises:
        ValueError: in the first process, if a process has no device of its own.
        ConnectionError: if some of them do not come, or process 0 cannot listen.
    """
    address = f"{description.address}:{description.port}"
    place = f"process {description.rank} of {description.world}"
    timer = threading.Timer(
        SPEAK_AFTER,
        lambda: print(f"{place} waits for the others at {address}", file=sys.stderr, flush=True),
    )
    timer.daemon = True
    timer.start()
    variables = {"RANK": description.rank, "WORLD_SIZE": description.world}
    variables |= {"MASTER_ADDR": description.address, "MASTER_PORT": description.port}  # type: ignore[dict-item]
    try:
        with temporary_environment(**{name: str(value) for name, value in variables.items()}):
            store, _, _ = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    except RuntimeError as error:
        raise ConnectionError(
            f"{place} has not met the others at {address}: {str(error).splitlines()[0]} "
            "Set MASTER_PORT to a free port of the machine of process 0, and see that all processes start."
        ) from error
    finally:
        timer.cancel()
    group = StartedGroup(description=description, store=dist.PrefixStore("distill", store))
    group.check_devices()
    return group


def local_rank(description: Description) -> int:
    """The number of a process among those of its machine; if nothing says it, as if all machines were alike."""
    if description.local_rank is not None:
        return description.local_rank
    return description.rank % max(1, torch.accelerator.device_count())


def _status(script: str) -> int:
    """Run a script in this process; return the exit status that a process of its own would have."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0
