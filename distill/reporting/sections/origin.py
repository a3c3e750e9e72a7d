"""Recipe and provenance."""

from __future__ import annotations

from collections.abc import Sequence

from distill.reporting.blocks import Block, Code, Table, Text
from distill.reporting.facts import RunFacts


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """What each run was made of and with: a table with a column for each run, and the recipes."""
    keys = list(dict.fromkeys(key for run in runs for key, _ in run.provenance))
    values = [dict(run.provenance) for run in runs]
    rows = [[key, *(own.get(key, "–") for own in values)] for key in keys]
    columns = ["property", *(run.name for run in runs)] if len(runs) > 1 else ["property", "value"]
    every = frozenset(range(1, len(columns)))
    found: list[Block] = [Table("Versions, seeds and fingerprints", columns, rows, every)]
    found += [Code(f"Recipe of {run.name}" if len(runs) > 1 else "Recipe", run.recipe) for run in runs]
    found.append(Text("Of paths, only the last part is shown. Nothing here names the machine."))
    return found
