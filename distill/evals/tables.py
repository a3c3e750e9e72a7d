"""Results of evaluations as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

COUNTS = ("images", "texts", "classes", "outliers")


def as_text(found: dict[str, Any]) -> str:
    """What :func:`distill.evals.runner.run` returns, a table a task, and why other tasks were not made."""
    parts = [found["model"]]
    for result in found["results"]:
        parts.append(f"\n{heading(result)}\n{aligned(rows_of(result))}")
    if found["not_made"]:
        parts.append("\nNot made:")
        parts += [f"  {one['task']}: {one['reason']}" for one in found["not_made"]]
    return "\n".join(parts)


def heading(result: dict[str, Any]) -> str:
    """The task, the data and how much was measured."""
    counts = ", ".join(f"{result[name]:,} {name}" for name in COUNTS if name in result)
    return f"{result['task']} on {result['data']} ({counts})" if counts else f"{result['task']} on {result['data']}"


def rows_of(result: dict[str, Any]) -> list[list[str]]:
    """The header and a row for each metric."""
    against = "differences" in result
    header = ["", "value", "95 % interval", "chance"] + ([f"minus {result['against']}"] if against else [])
    rows = [header]
    for name, value in result["metrics"].items():
        row = [name, number(value), interval(result["intervals"].get(name)), number(result["chance"].get(name))]
        if against:
            own = result["differences"].get(name)
            row.append(f"{number(own['value'], '+')} {interval((own['low'], own['high']), '+')}" if own else "")
        rows.append(row)
    return rows


def number(value: float | None, sign: str = "") -> str:
    """Four decimals; nothing for a number that is not known."""
    return "" if value is None else f"{value:{sign}.4f}"


def interval(ends: Sequence[float | None] | None, sign: str = "") -> str:
    """Both ends of an interval."""
    return "" if ends is None or None in ends else f"[{number(ends[0], sign)}, {number(ends[1], sign)}]"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows as lines with columns of equal width, the first one aligned to the left."""
    table = [list(row) for row in rows]
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            f"{cell:<{w}}" if k == 0 else f"{cell:>{w}}" for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return "\n".join(lines)
