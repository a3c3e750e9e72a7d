"""Requests to save a checkpoint, or to stop: from a timer, from signals, or from the process that started the job."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType

from launch.job import stop_signals

STOP = ".stop"  # a file of this name in the run folder asks all processes to save and end
SAME_PRESS = 1.0  # seconds within which two SIGINT are one press of Ctrl-C


def say_stopping() -> None:
    """Tell the user that the request to stop has been received; safe in a signal handler."""
    os.write(2, b"\nStopping: this step is completed and a checkpoint saved. Ctrl-C again stops at once.\n")


class StopRequests:
    """The requests that one process has received; the training loop sums them, so that all processes act alike.

    A signal reaches only some processes, or several at different steps; the file also reaches other hosts.

    Args:
        run: the run folder.
        minutes: the time between two checkpoints; 0 disables the timer.
        first: whether this is the first process, the only one that reads the timer and looks for the file.
    """

    def __init__(self, run: Path, minutes: float, first: bool) -> None:
        self.file, self.minutes, self.first = run / STOP, minutes, first
        self.stopping, self.last_save = False, time.monotonic()
        self.interrupted_at = -SAME_PRESS
        self._handlers = ExitStack()

    def __enter__(self) -> StopRequests:
        self._handlers.enter_context(stop_signals(self._stop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Note the request. A second SIGINT stops at once; other signals may come several times, from schedulers.

        Raises:
            KeyboardInterrupt: at a second SIGINT.
        """
        if number == signal.SIGINT:
            # A terminal and a launcher may both pass on one press of Ctrl-C.
            same_press = time.monotonic() - self.interrupted_at < SAME_PRESS
            if not same_press and (self.stopping or self.file.exists()):
                raise KeyboardInterrupt
            self.interrupted_at = time.monotonic()
        if self.first and not self.stopping and not self.file.exists():
            say_stopping()
        self.stopping = True

    def now(self) -> dict[str, float]:
        """This process's requests, 1.0 or 0.0: to "stop", and to "save" a checkpoint."""
        stop = self.stopping or (self.first and self.file.exists())
        due = self.first and self.minutes > 0 and time.monotonic() - self.last_save >= 60 * self.minutes
        return {"stop": float(stop), "save": float(due)}

    def checkpoint_saved(self) -> None:
        """Restart the timer: a checkpoint has been saved."""
        self.last_save = time.monotonic()
