"""Evaluation results of runs, in the form that reports read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.data.shard_names import shard_paths
from distill.evals.runner import run as evaluate
from distill.reporting.facts import Result
from distill.reporting.public import shard_name
from distill.training.run import read_recipe


def results_of(run: Path, data: Sequence[str] = (), device: str | None = None) -> list[Result]:
    """The results of a run's evaluations.

    Args:
        run: the run folder.
        data: shards to measure on; default the recipe's ``data.eval``.
        device: default a GPU where there is one.

    Returns:
        Objects with "task", "data" (names), "samples", "metrics", "intervals", "chance" and "details".

    Raises:
        UserError: if there is nothing to measure on, or the run has no checkpoint or no text tower.
    """
    specs = list(data) or list(read_recipe(run).data.eval)
    found = evaluate(run, "retrieval", {"data": specs} if specs else {}, device)
    names = [shard_name(str(path)) for path in shard_paths(specs)]
    filled: Result = {"samples": found.get("images", 0), "intervals": {}, "chance": {}, "details": {}} | found
    return [filled | {"data": names}]


def differences_of(
    name: str, results: Mapping[str, Sequence[Result]]
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """A run's results minus those of the other runs, by other run, task and metric.

    Args:
        name: of the run.
        results: of all runs, by name. Only results on the same data are compared.

    Returns:
        {"value": the difference, "interval": None, as results do not say yet how single queries were answered}.
    """
    own = {result["task"]: result for result in results[name]}
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for other in results:
        if other == name:
            continue
        for theirs in results[other]:
            mine = own.get(theirs["task"])
            if mine is None or (mine["data"], mine["samples"]) != (theirs["data"], theirs["samples"]):
                continue
            found.setdefault(other, {})[theirs["task"]] = {
                metric: {"value": mine["metrics"][metric] - value, "interval": None}
                for metric, value in theirs["metrics"].items()
                if metric in mine["metrics"]
            }
    return found
