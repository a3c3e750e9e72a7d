"""The log of a training: metrics.jsonl, TensorBoard and a progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill.files import write_text
from distill.progress import progress_bar


class Journal:
    """A JSON Lines file whose objects each have a "step".

    Args:
        path: the file; it is created with the first line.
        start: the step a run resumes from. Lines of later steps come from a part of the run that was interrupted
            before its next checkpoint, and are removed.
        first: whether this is the first process, the only one that writes.

    Attributes:
        earlier: the objects of steps up to ``start``.
    """

    def __init__(self, path: Path, start: int, first: bool) -> None:
        self.path, self.first, self.earlier = path, first, list[dict[str, Any]]()
        self.incomplete = False  # whether the last line may have been written in part, because the disk was full
        if not path.exists():
            return
        # A line is incomplete if the process was killed or the disk was full while it was written.
        lines = [line + "\n" for line in path.read_text(encoding="utf-8", errors="replace").split("\n")]
        kept = [line for line in lines if (step := step_of(line)) is not None and step <= start]
        self.earlier = [json.loads(line) for line in kept]
        if first:
            write_text(path, "".join(kept))

    def append(self, entry: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite become null. A full disk is reported once and not fatal."""
        if not self.first:
            return
        line = json.dumps({k: finite_or_none(v) for k, v in entry.items()}, ensure_ascii=False) + "\n"
        try:
            # Unbuffered: bytes that a full disk rejects must not be written again with the next line or at close.
            with self.path.open("ab", buffering=0) as file:
                file.write(b"\n" * self.incomplete + line.encode("utf-8", "replace"))
            self.incomplete = False
        except OSError as error:
            if not self.incomplete:
                print(f"{self.path} cannot be written: {error.strerror}; training goes on.", file=sys.stderr)
            self.incomplete = True


def step_of(line: str) -> int | None:
    """The step of a line; None if the line is incomplete."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


def finite_or_none(value: Any) -> Any:
    """The value, or None for NaN and infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Log:
    """A run's metrics: one object a step in metrics.jsonl, the same numbers in tensorboard/.

    Args:
        run: the run folder.
        label: the label of the progress bar.
        start: the step a resumed run starts from.
        total: the number of steps of the whole run.
        batch_size: samples per step.
    """

    def __init__(self, run: Path, label: str, start: int, total: int, batch_size: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.journal = Journal(run / "metrics.jsonl", start, True)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        self.progress = progress_bar(label, total, "steps", start)
        self.batch_size, self.clock = batch_size, time.perf_counter()

    def step(self, metrics: dict[str, Any], found: Mapping[str, float], seconds: float = 0.0) -> None:
        """Record a step.

        Args:
            metrics: "step" and numbers by name.
            found: numbers of evaluations by TASK/METRIC, which are written as "evaluate".
            seconds: how long evaluations took, which does not count for the speed of training.
        """
        before, self.clock = self.clock, time.perf_counter()
        rate = self.batch_size / max(1e-9, self.clock - before - seconds)
        metrics |= {"examples": metrics["step"] * self.batch_size, "examples_per_s": rate}
        evaluated = {"evaluate": {name: finite_or_none(value) for name, value in found.items()}} if found else {}
        self.journal.append(metrics | evaluated)
        if found:
            values = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            self.progress.write(f"step {metrics['step']}: {values}", file=sys.stderr)
        with suppress(OSError):  # a full disk, met by a thread of TensorBoard
            for name, value in {**metrics, **found}.items():
                if name not in ("step", "samples"):
                    self.board.add_scalar(name, value, metrics["step"])
        terms = {k: v for k, v in metrics.items() if k not in ("step", "lr", "examples", "epoch", "samples")}
        self.progress.set_postfix_str(" ".join(f"{name} {value:.4g}" for name, value in terms.items()), refresh=False)
        self.progress.update(1)

    def close(self) -> None:
        with suppress(OSError):
            self.board.close()
        self.progress.close()
