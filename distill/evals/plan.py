"""Which evaluations are made of a model, and with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill import plugins
from distill.errors import BadSample, UserError
from distill.evals.data_options import DataOptions
from distill.evals.evaluation import Evaluation
from distill.evals.session import Session
from distill.evals.store import first_bad
from distill.lookup import EVALUATIONS, find_evaluation

Options = Mapping[str, Any]


def tasks() -> list[str]:
    """The evaluations that exist, sorted."""
    return list(plugins.found(*EVALUATIONS))


def plan(
    chosen: Sequence[str], options: Options, defaults: Sequence[tuple[str, Options]] = ()
) -> dict[str, Evaluation]:
    """Evaluations by name, with their options.

    Args:
        chosen: the tasks; none means all that are made where no task is named, and those with defaults.
        options: those of :class:`DataOptions` apply to all tasks; of one task alone, those under its name, and if only
            one task is chosen, all others.
        defaults: tasks and their options in a recipe's [[evaluate]]. What they say about the data applies to tasks
            that they do not name, too.

    Raises:
        UserError: if there is no task of a name, or an option is unknown or has a wrong value.
    """
    shared, own = divide(chosen, options)
    recipe: dict[str, Any] = {}
    for _, values in reversed(defaults):
        recipe |= {key: value for key, value in values.items() if key in DataOptions.model_fields}
    of_task = {name: dict(values) for name, values in reversed(defaults)}
    found = {
        name: find_evaluation(name, recipe | of_task.get(name, {}) | shared | own.get(name, {}))
        for name in chosen or tasks()
    }
    return {name: one for name, one in found.items() if chosen or one.automatic or name in of_task}


def divide(chosen: Sequence[str], options: Options) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The options for all tasks, and those of each task alone; see :func:`plan`.

    Raises:
        UserError: if an option is neither.
    """
    shared = {key: value for key, value in options.items() if key in DataOptions.model_fields}
    names, alone = chosen or tasks(), chosen[0] if len(chosen) == 1 else ""
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
    return shared, own


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
