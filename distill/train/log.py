"""What a training says while it runs: metrics.jsonl, TensorBoard, and a bar or plain lines."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from distill.files import write_text

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A progress bar on a terminal; in a log file, a plain line every few seconds.

    Args:
        total: how many units there are.
        unit: what they are called.
        done: how many were done before.
    """

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.first, self.began = done, time.monotonic()
        self.said = self.began
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, unit=unit, desc=label, dynamic_ncols=True)

    def tick(self, count: int, note: str = "") -> None:
        """``count`` more units are done; ``note`` says how it goes."""
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.said > SECONDS_BETWEEN_LINES or self.done == self.total:
            self.said = time.monotonic()
            rate = (self.done - self.first) / max(self.said - self.began, 1e-9)
            print(
                f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.3g} a second {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Log:
    """A run's metrics: one object a step in metrics.jsonl, the same numbers in tensorboard/.

    Args:
        run: the run folder.
        label: what the progress bar says.
        start: the step a resumed run starts from; later lines of an earlier attempt are dropped.
        total: steps of the whole run.
    """

    def __init__(self, run: Path, label: str, start: int, total: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = run / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
            write_text(path, "".join(kept))
        self.file = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        self.progress = Progress(label, total, "steps", start)

    def step(self, metrics: dict[str, Any]) -> None:
        """Record a step: ``metrics`` has "step" and numbers by name."""
        self.file.write(json.dumps(metrics) + "\n")
        self.file.flush()
        for name, value in metrics.items():
            if name != "step":
                self.board.add_scalar(name, value, metrics["step"])
        terms = {k: v for k, v in metrics.items() if k not in ("step", "lr", "examples", "epoch")}
        self.progress.tick(1, " ".join(f"{name} {value:.4g}" for name, value in terms.items()))

    def close(self) -> None:
        self.file.close()
        self.board.close()
        self.progress.close()
