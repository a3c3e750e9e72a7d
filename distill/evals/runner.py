"""Evaluate a model, and return what JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import BadSample
from distill.evals.evaluation import Evaluation, Outcome
from distill.evals.plan import plan, suitable
from distill.evals.session import Session
from distill.evals.store import Store, first_bad
from distill.evals.subject import OpenOptions, Subject, open_subject
from distill.metrics.resampling import paired_difference

EXAMPLES = 20  # of bad samples in a result


@dataclass(frozen=True)
class Settings:
    """What applies to all tasks of one call.

    Attributes:
        device: a torch device; None for a GPU where there is one.
        alpha: of a run that was trained without heads, the teacher's weight in image embeddings.
        skip_bad: leave out samples that cannot be used.
        cache: the folder that keeps embeddings; None keeps none.
        against: another model, which is measured on the same data and compared.
        best: of runs, measure the best checkpoint.
    """

    device: str | None = None
    alpha: float | None = None
    skip_bad: bool = False
    cache: Path | None = None
    against: str = ""
    best: bool = False


def run(
    name: str | Path, chosen: Sequence[str], options: Mapping[str, Any] | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Evaluate a model.

    Args:
        name: see :func:`distill.evals.subject.open_subject`.
        chosen: the tasks; none means all that the model and the data allow.
        options: see :func:`distill.evals.plan.plan`.
        settings: see there.

    Returns:
        {"model", "results": [one object a task, see :func:`result_of`], "not_made": [{"task", "reason"}]}.

    Raises:
        UserError: if there is no such task or model, an option does not hold, there are no data; and if a task was
            chosen that the model or the data do not allow, or without any chosen if none is possible.
    """
    settings = settings or Settings()
    evaluations = plan(chosen, options or {})  # a wrong option is said before anything is loaded
    opened = OpenOptions(settings.device, settings.alpha, settings.best)
    store = Store(settings.cache)
    session = Session(open_subject(name, opened), store, settings.device, settings.skip_bad)
    if session.subject.options:
        evaluations = plan(chosen, options or {}, session.subject.options)
    possible, reasons = suitable(session, evaluations, strict=bool(chosen))
    other, comparable = None, dict[str, Evaluation]()
    if settings.against:
        other = opponent(session, open_subject(settings.against, opened))
        comparable, _ = suitable(other, possible, strict=bool(chosen))
    results = []
    for task, evaluation in possible.items():
        data = session.context(evaluation).data.name
        outcome = measure(session, evaluation)
        result = result_of(task, data, outcome)
        if other is not None and task in comparable:
            result["against"] = settings.against
            result["differences"] = differences(outcome, measure(other, evaluation))
        if settings.skip_bad:
            bad = list(dict.fromkeys(session.bad))
            result |= {"bad": len(bad), "bad_examples": [one._asdict() for one in bad[:EXAMPLES]]}
        results.append(result)
    return {"model": session.subject.name, "results": results, "not_made": reasons}


def opponent(session: Session, subject: Subject) -> Session:
    """A session that measures another model on the same samples, read in the same way."""
    own = session.subject
    subject.data, subject.train, subject.captions = own.data, own.train, own.captions
    return Session(subject, session.store, session.device, session.skip_bad)


def measure(session: Session, evaluation: Evaluation) -> Outcome:
    """The outcome of one evaluation; a bad sample is an error that says what to do."""
    try:
        return evaluation.measure(session.context(evaluation))
    except BadSample as error:
        raise first_bad(error) from error


def result_of(task: str, data: str, outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON can hold it.

    Returns:
        {"task", "data", its counts, "metrics": {name: value}, "intervals": {name: [low, high]} of 95 %, "chance":
        {name: value}, "details"}. Numbers that are not finite are null.
    """
    return {
        "task": task,
        "data": data,
        **outcome.counts,
        "metrics": {name: finite(metric.value) for name, metric in outcome.metrics.items()},
        "intervals": {name: [finite(end) for end in metric.interval()] for name, metric in outcome.metrics.items()},
        "chance": {name: metric.chance for name, metric in outcome.metrics.items() if metric.chance is not None},
        "higher_is_better": {name: metric.higher_is_better for name, metric in outcome.metrics.items()},
        "details": dict(outcome.details),
    }


def differences(own: Outcome, other: Outcome) -> dict[str, dict[str, float | None]]:
    """By how much each metric is larger than another model's, with an interval of 95 % from the same resamples."""
    found = {}
    for name, metric in own.metrics.items():
        if name in other.metrics:
            value, low, high = map(finite, paired_difference(metric, other.metrics[name]))
            found[name] = {"value": value, "low": low, "high": high}
    return found


def finite(value: float) -> float | None:
    """The number; None for one that is not finite, which JSON does not have."""
    return float(value) if math.isfinite(value) else None
