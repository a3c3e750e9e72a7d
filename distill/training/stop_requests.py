"""Requests to save a checkpoint, or to stop: from a timer, from SIGTERM, or from the process that started the job."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

STOP = ".stop"  # a file of this name in the run folder asks all processes to save and end


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
        self.previous_handler: signal.Handlers | object = None

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self.previous_handler = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.previous_handler is not None:
            signal.signal(signal.SIGTERM, self.previous_handler)  # type: ignore[arg-type]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def now(self) -> dict[str, float]:
        """This process's requests, 1.0 or 0.0: to "stop", and to "save" a checkpoint."""
        stop = self.stopping or (self.first and self.file.exists())
        due = self.first and self.minutes > 0 and time.monotonic() - self.last_save >= 60 * self.minutes
        return {"stop": float(stop), "save": float(due)}

    def checkpoint_saved(self) -> None:
        """Restart the timer: a checkpoint has been saved."""
        self.last_save = time.monotonic()
