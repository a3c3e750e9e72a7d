"""Find evaluations by name, check their options, make them, and return what JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import plugins
from distill.errors import BadSample, UserError
from distill.evals.data_options import DataOptions
from distill.evals.evaluation import Evaluation, Outcome
from distill.evals.session import Session
from distill.evals.store import Store, first_bad
from distill.evals.subject import OpenOptions, open_subject
from distill.lookup import EVALUATIONS, find_evaluation
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


def tasks() -> list[str]:
    """The evaluations that exist, sorted."""
    return list(plugins.found(*EVALUATIONS))


def run(
    name: str | Path, chosen: Sequence[str], options: Mapping[str, Any] | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Evaluate a model.

    Args:
        name: see :func:`distill.evals.subject.open_subject`.
        chosen: the tasks; none means all that the model and the data allow.
        options: those of :class:`DataOptions` apply to all tasks; of one task alone, those under its name, and if only
            one task is chosen, all others.
        settings: see there.

    Returns:
        {"model", "results": [one object a task, see :func:`result_of`], "not_made": [{"task", "reason"}]}.

    Raises:
        UserError: if there is no such task or model, an option does not hold, there are no data; and if a task was
            chosen that the model or the data do not allow, or without any chosen if none is possible.
    """
    settings = settings or Settings()
    evaluations = with_options(chosen or tasks(), dict(options or {}), bool(chosen))
    if not chosen:
        evaluations = {task: evaluation for task, evaluation in evaluations.items() if evaluation.automatic}
    opened = OpenOptions(settings.device, settings.alpha, settings.best)
    store = Store(settings.cache)
    session = Session(open_subject(name, opened), store, settings.device, settings.skip_bad)
    other = None
    if settings.against:
        other = Session(open_subject(settings.against, opened), store, settings.device, settings.skip_bad)
    possible, reasons = suitable(session, evaluations, strict=bool(chosen))
    results = []
    for task, evaluation in possible.items():
        data = session.context(evaluation).data.name
        outcome = measure(session, evaluation)
        result = result_of(task, data, outcome)
        if other is not None:
            theirs = evaluation if evaluation.data else evaluation.model_copy(update={"data": session.subject.data})
            result["against"] = settings.against
            result["differences"] = differences(outcome, measure(other, theirs))
        if settings.skip_bad:
            bad = list(dict.fromkeys(session.bad))
            result |= {"bad": len(bad), "bad_examples": [one._asdict() for one in bad[:EXAMPLES]]}
        results.append(result)
    return {"model": session.subject.name, "results": results, "not_made": reasons}


def suitable(
    session: Session, evaluations: Mapping[str, Evaluation], strict: bool
) -> tuple[dict[str, Evaluation], list[dict[str, str]]]:
    """The evaluations that can be made, and why the others cannot.

    Raises:
        UserError: with ``strict``, for the first that cannot; otherwise if none can.
    """
    possible, reasons = {}, list[dict[str, str]]()
    for task, evaluation in evaluations.items():
        try:
            evaluation.check(session.context(evaluation))
        except UserError as error:
            if strict:
                raise first_bad(error) if isinstance(error, BadSample) else error from error
            reasons.append({"task": task, "reason": str(error)})
        else:
            possible[task] = evaluation
    if not possible:
        first = reasons[0]
        raise UserError(f"No task can be made; {first['task']}: {first['reason']}", "Name other data.")
    return possible, reasons


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


def with_options(names: Sequence[str], options: dict[str, Any], chosen: bool) -> dict[str, Evaluation]:
    """Evaluations by name, with their options.

    Args:
        names: of the tasks.
        options: see :func:`run`.
        chosen: whether the user chose the tasks.

    Raises:
        UserError: if there is no task of a name, or an option is unknown or has a wrong value.
    """
    shared = {key: value for key, value in options.items() if key in DataOptions.model_fields}
    alone = names[0] if chosen and len(names) == 1 else ""
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in options.items():
        if key in own and isinstance(value, Mapping):
            own[key] |= value
        elif alone and key not in shared:
            own[alone][key] = value
        elif key not in shared:
            raise UserError(
                f"'{key}' is no option that all tasks have.", f"Write TASK.{key}, such as {names[0]}.{key}."
            )
    return {name: find_evaluation(name, shared | own[name]) for name in names}
