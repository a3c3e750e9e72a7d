"""Training curves from ``metrics.jsonl``, in bounded memory however long the run was."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.reporting.facts import Curves, Series

MOST_GROUPS = 100  # points of a curve; twice as many at most before neighbours are joined
NOT_CURVES = frozenset({"step", "samples", "examples", "epoch", "evaluate"})


class Groups:
    """Collects the values of one quantity in groups of consecutive values.

    There are at most ``2 * MOST_GROUPS`` groups: when there would be more, each two neighbours become one, and groups
    hold twice as many values from then on.
    """

    def __init__(self) -> None:
        self.size, self.not_finite = 1, 0
        self.first = self.last = math.nan
        # Of each group: number, sum of steps, mean, sum of squared deviations from it, smallest, largest.
        self.groups: list[tuple[int, float, float, float, float, float]] = []

    def add(self, step: int, value: Any) -> None:
        """Add the value of a step; what is no finite number is only counted."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.not_finite += 1
            return
        value = float(value)
        self.first, self.last = value if math.isnan(self.first) else self.first, value
        single = (1, float(step), value, 0.0, value, value)
        if self.groups and self.groups[-1][0] < self.size:
            self.groups[-1] = joined(self.groups[-1], single)
            return
        if len(self.groups) == 2 * MOST_GROUPS:
            self.groups = [joined(a, b) for a, b in zip(self.groups[::2], self.groups[1::2], strict=True)]
            self.size *= 2
        self.groups.append(single)

    def series(self) -> Series | None:
        """What was collected; None if there was no finite value."""
        if not self.groups:
            return None
        counts, steps, means, squares, lows, highs = zip(*self.groups, strict=True)
        return Series(
            steps=tuple(total / n for total, n in zip(steps, counts, strict=True)),
            means=means,
            lows=lows,
            highs=highs,
            counts=counts,
            variances=tuple(square / n for square, n in zip(squares, counts, strict=True)),
            first=self.first,
            last=self.last,
            not_finite=self.not_finite,
        )


def joined(
    a: tuple[int, float, float, float, float, float], b: tuple[int, float, float, float, float, float]
) -> tuple[int, float, float, float, float, float]:
    """Two groups as one. Chan, Golub & LeVeque (1983), equation 1.5, for the squared deviations."""
    n = a[0] + b[0]
    apart = b[2] - a[2]
    mean = a[2] + apart * b[0] / n
    squares = a[3] + b[3] + apart * apart * a[0] * b[0] / n
    return n, a[1] + b[1], mean, squares, min(a[4], b[4]), max(a[5], b[5])


def read_curves(path: Path) -> Curves:
    """The curves in a run's ``metrics.jsonl``; damaged lines, as of a run that was killed, are passed over."""
    logged, evaluated, last = dict[str, Groups](), dict[str, Groups](), 0
    if not path.is_file():
        return Curves()
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            line = parsed(text)
            if line is None:
                continue
            step = line["step"]
            last = max(last, step)
            for name, value in line.items():
                if name not in NOT_CURVES:
                    logged.setdefault(name, Groups()).add(step, value)
            found = line.get("evaluate")
            for name, value in found.items() if isinstance(found, dict) else ():
                evaluated.setdefault(str(name), Groups()).add(step, value)
    return Curves(finished(logged), finished(evaluated), last)


def parsed(text: str) -> dict[str, Any] | None:
    """A line's object; None if it is damaged or has no step."""
    try:
        line = json.loads(text)
        return line if isinstance(line, dict) and isinstance(line["step"], int) else None
    except (ValueError, KeyError):
        return None


def finished(groups: Mapping[str, Groups]) -> dict[str, Series]:
    """The series of all quantities that had a finite value, by name."""
    found = {name: group.series() for name, group in groups.items()}
    return {name: series for name, series in found.items() if series is not None}
