"""What a training says while it runs: metrics.jsonl, TensorBoard and a progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill.files import write_text
from distill.progress import progress_bar


class Journal:
    """A file of JSON objects, one a line, each of a step.

    Args:
        path: the file; made with the first line.
        start: the step a run goes on from: later lines are of an attempt that was cut off, and are dropped.
        first: whether this process writes; the others read.

    Attributes:
        before: what was noted up to ``start``.
    """

    def __init__(self, path: Path, start: int, first: bool) -> None:
        self.path, self.first, self.before = path, first, list[dict[str, Any]]()
        self.torn = False  # whether a line may have been written in part, for want of space
        if not path.exists():
            return
        # A line that is not whole is of the attempt that was cut off, or of a moment when a disk was full.
        lines = [line + "\n" for line in path.read_text(encoding="utf-8", errors="replace").split("\n")]
        kept = [line for line in lines if (step := step_of(line)) is not None and step <= start]
        self.before = [json.loads(line) for line in kept]
        if first:
            write_text(path, "".join(kept))

    def note(self, entry: dict[str, Any]) -> None:
        """Add a line; numbers that are not finite become null."""
        if not self.first:
            return
        line = json.dumps({k: finite(v) for k, v in entry.items()}, ensure_ascii=False) + "\n"
        try:
            # Unbuffered: what a full disk refuses must not come back with the next line, or when the file is closed.
            with self.path.open("ab", buffering=0) as file:
                file.write(b"\n" * self.torn + line.encode("utf-8", "replace"))
            self.torn = False
        except OSError as error:
            if not self.torn:
                print(f"{self.path} cannot be written: {error.strerror}; training goes on.", file=sys.stderr)
            self.torn = True


def step_of(line: str) -> int | None:
    """The step a line of a journal is of; None if it is not whole."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


def finite(value: Any) -> Any:
    """The value, or None for a number that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Log:
    """A run's metrics: one object a step in metrics.jsonl, the same numbers in tensorboard/.

    Args:
        run: the run folder.
        label: what the progress bar says.
        start: the step a resumed run starts from.
        total: steps of the whole run.
        batch_size: samples a step.
    """

    def __init__(self, run: Path, label: str, start: int, total: int, batch_size: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.journal = Journal(run / "metrics.jsonl", start, True)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        self.progress = progress_bar(label, total, "steps", start)
        self.batch_size, self.clock = batch_size, time.perf_counter()

    def step(self, metrics: dict[str, Any]) -> None:
        """Record a step: ``metrics`` has "step" and numbers by name."""
        before, self.clock = self.clock, time.perf_counter()
        rate = self.batch_size / (self.clock - before)
        metrics |= {"examples": metrics["step"] * self.batch_size, "examples_per_s": rate}
        self.journal.note(metrics)
        with suppress(OSError):  # of a full disk, in a thread of TensorBoard's
            for name, value in metrics.items():
                if name not in ("step", "samples"):
                    self.board.add_scalar(name, value, metrics["step"])
        terms = {k: v for k, v in metrics.items() if k not in ("step", "lr", "examples", "epoch", "samples")}
        self.progress.set_postfix_str(" ".join(f"{name} {value:.4g}" for name, value in terms.items()), refresh=False)
        self.progress.update(1)

    def close(self) -> None:
        with suppress(OSError):
            self.board.close()
        self.progress.close()
