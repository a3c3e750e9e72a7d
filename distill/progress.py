"""Progress of long work: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import io
import sys
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


def progress_bar(label: str, total: int, unit: str, done: int = 0) -> Any:
    """A tqdm bar on standard error; where that is no terminal, one plain line every ten seconds and at the end.

    Args:
        label: what is being done.
        total: how many units there are.
        unit: what they are called.
        done: how many were done before.
    """
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, unit=unit, desc=label, dynamic_ncols=True)

    class PlainLines(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        """A bar that prints lines; what tqdm itself writes, to redraw a line, goes nowhere."""

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            finished, self.finished = getattr(self, "finished", False), self.n == self.total
            if self.n > self.initial and not finished:
                rate = (self.n - self.initial) / max(self.format_dict["elapsed"], 1e-9)
                line = f"{self.desc}: {self.n}/{self.total} {self.unit}, {rate:.3g} a second {self.postfix or ''}"
                print(line.rstrip(), file=sys.stderr, flush=True)
            return True

    every = SECONDS_BETWEEN_LINES
    return PlainLines(
        total=total, initial=done, unit=unit, desc=label, mininterval=every, maxinterval=every, file=io.StringIO()
    )
