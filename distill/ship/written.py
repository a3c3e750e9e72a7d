"""What was written by an export, and a table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """One folder that was written.

    Attributes:
        format: the name of its format.
        opens: what opens it.
        folder: where it lies.
        stored: in which type of number the weights are stored, such as "fp32" or "int8".
        difference: the largest between a number of its unit rows and of the students'; None if it was not opened.
        size: bytes of its files, without the model card.
        measured: what ``measure`` found, such as {"images/s": 812.0}, by name.
    """

    format: str
    opens: str
    folder: Path
    stored: str
    difference: float | None
    size: int
    measured: Mapping[str, float] = field(default_factory=dict)


def as_text(written: Sequence[Written]) -> str:
    """A table of what was written, for terminals and model cards: Markdown."""
    columns = list(dict.fromkeys(name for one in written for name in one.measured))
    rows = [["format", "weights", "opened by", "largest difference", "MB", *columns]]
    rows.append(["---"] * len(rows[0]))
    for one in written:
        difference = "" if one.difference is None else f"{one.difference:.1e}"
        values = [f"{one.measured[name]:,.1f}" if name in one.measured else "" for name in columns]
        rows.append([one.format or "run", one.stored, one.opens, difference, f"{one.size / 1e6:.2f}", *values])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
