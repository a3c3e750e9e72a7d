"""A report format: a line of JSON for each run, with the numbers of its evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence

from distill.reporting.facts import RunFacts


def write(runs: Sequence[RunFacts]) -> str:
    """Write a line of JSON for each run."""
    lines = [{"run": run.name, **{one["task"]: one["metrics"] for one in run.results}} for run in runs]
    return "".join(json.dumps(line) + "\n" for line in lines)
