"""Size and speed of students and teacher, and how much of the teacher the student keeps."""

from __future__ import annotations

from collections.abc import Sequence

from distill.reporting.blocks import Block, Cell, Heading, Table, Text
from distill.reporting.facts import RunFacts, Tower
from distill.reporting.numbers import count, short
from distill.reporting.sections.results import table, without_empty
from distill.wording import in_bytes


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """A table of towers, and the results of "fidelity"."""
    several = len(runs) > 1
    found: list[Block] = []
    rows = [row(run.name if several else "", tower, run) for run in runs for tower in run.speed.towers]
    if rows:
        columns = [
            "network",
            "input",
            "parameters",
            "weights",
            "inputs per second",
            "ms for one",
            "times the teacher's speed",
        ]
        found.append(without_empty(Table("Size and speed", columns, rows, frozenset({1}))))
        method = next(run.speed.method for run in runs if run.speed.towers)
        found.append(Text(method))
    fidelity = {run.name: result for run in runs if (result := run.result("fidelity")) is not None}
    if fidelity:
        found.append(Heading("What the student keeps of the teacher"))
        found.append(table(fidelity, several))
    return found


def row(name: str, tower: Tower, run: RunFacts) -> list[Cell]:
    """The row of a network."""
    teacher = run.speed.tower("teacher")
    times = "–"
    if tower.name == "image student" and teacher and teacher.per_second and tower.per_second:
        times = short(tower.per_second / teacher.per_second)
    return [
        f"{name}: {tower.name}" if name else tower.name,
        tower.input or "–",
        count(tower.parameters),
        in_bytes(tower.bytes),
        count(tower.per_second) if tower.per_second else "–",
        short(tower.milliseconds) if tower.milliseconds else "–",
        times,
    ]
