"""What asks for a checkpoint between two steps: the clock, SIGTERM, or the process that started the job."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

STOP = ".stop"  # a file of this name in the run folder asks all processes to save and end


class StopRequests:
    """One process's requests; the training loop adds up those of all processes, so that all do the same.

    A signal reaches one process, or several at different moments; the file reaches those of other hosts.

    Args:
        run: the run folder.
        minutes: between two checkpoints; 0 if the clock does not matter.
        first: whether this process looks at the clock and for the file.
    """

    def __init__(self, run: Path, minutes: float, first: bool) -> None:
        self.file, self.minutes, self.first = run / STOP, minutes, first
        self.stopping, self.saved = False, time.monotonic()
        self.before: signal.Handlers | object = None

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)  # type: ignore[arg-type]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def now(self) -> dict[str, float]:
        """This process's requests before a step, by name: to "stop", and to "save"."""
        stop = self.stopping or (self.first and self.file.exists())
        due = self.first and self.minutes > 0 and time.monotonic() - self.saved >= 60 * self.minutes
        return {"stop": float(stop), "save": float(due)}

    def granted(self) -> None:
        """A checkpoint has been taken."""
        self.saved = time.monotonic()
