"""Evaluation results of runs, in the form that reports read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.evals.evaluation import Context, Outcome
from distill.evals.plan import plan, suitable
from distill.evals.runner import differences, measure, result_of
from distill.evals.session import Session
from distill.evals.store import Store, default_folder
from distill.evals.subjects.students import Students
from distill.reporting.facts import Result
from distill.reporting.public import shard_name
from distill.ship.image_text import ImageText


@dataclass(frozen=True)
class Measured:
    """The evaluations of a run.

    Attributes:
        results: as JSON can hold them.
        outcomes: by task, with the samples that differences between runs are computed from.
        identities: by task, changes if other samples are measured.
        context: of the retrieval, whose embeddings the examples are searched in; None if there was none.
    """

    results: list[Result] = field(default_factory=list)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    identities: Mapping[str, str] = field(default_factory=dict)
    context: Context | None = None


def measure_run(run: Path, model: ImageText, data: Sequence[str] = (), device: str | None = None) -> Measured:
    """Make all evaluations of a run that its recipe names, or that it and the data allow.

    Args:
        run: the run folder.
        model: its students.
        data: what to measure on; default the recipe's ``data.eval``. Samples that cannot be used are left out.
        device: of the teacher; default a GPU where there is one.

    Raises:
        UserError: if there is nothing to measure on, or no evaluation is possible.
    """
    subject = Students(model, run.name, run)
    if not (data or subject.data or any("data" in options for _, options in subject.options)):
        raise UserError("the recipe names no data.eval, and --data was not given.")
    session = Session(subject, Store(default_folder()), device, skip_bad=True)
    options = {"data": tuple(data)} if data else {}
    possible, _ = suitable(session, plan((), options, subject.options), strict=False)
    outcomes = {task: measure(session, evaluation) for task, evaluation in possible.items()}
    contexts = {task: session.context(evaluation) for task, evaluation in possible.items()}
    results = [
        {"samples": outcome.counts.get("images", 0)}
        | result_of(task, contexts[task].data.name, outcome)
        | {"data": [shard_name(name) for name in contexts[task].data.name.split(", ")]}
        for task, outcome in outcomes.items()
    ]
    identities = {task: context.data.identity for task, context in contexts.items()}
    return Measured(results, outcomes, identities, contexts.get("retrieval"))


def differences_of(name: str, measured: Mapping[str, Measured]) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """A run's results minus those of the other runs, by other run, task and metric, where both are of one data set.

    Args:
        name: of the run.
        measured: all runs, by name.

    Returns:
        {"value": the difference, "interval": the 95 % interval of it, from the same resamples of both, or None}.
    """
    own, found = measured[name], dict[str, dict[str, dict[str, dict[str, Any]]]]()
    for other, theirs in measured.items():
        if other == name:
            continue
        for task, outcome in own.outcomes.items():
            if task in theirs.outcomes and own.identities[task] == theirs.identities[task]:
                found.setdefault(other, {})[task] = {
                    metric: {"value": one["value"], "interval": ends(one)}
                    for metric, one in differences(outcome, theirs.outcomes[task]).items()
                }
    return found


def ends(difference: Mapping[str, Any]) -> list[float] | None:
    """The interval of a difference; None if it is not known."""
    return None if None in (difference["low"], difference["high"]) else [difference["low"], difference["high"]]
