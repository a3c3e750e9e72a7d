"""Find an evaluation by its name, check its options, and run it on a run or an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from distill import plugins
from distill.data.captions import Captions
from distill.errors import BadSample, UserError
from distill.evals.evaluation import Context, Evaluation
from distill.ship.image_text import ImageText
from distill.ship.load import load
from distill.training.run import is_run, read_recipe
from distill.validation import explain_options

EVALUATIONS = ("distill.evals", "EVALUATION", "distill.evaluations")  # where plugins.load finds them

EXAMPLES = 20  # of bad samples in a result


class ReadingSettings(BaseModel):
    """How a model's training read samples: these keys of its recipe's ``[data]``, whatever else is there."""

    caption_keys: tuple[str, ...]
    languages: tuple[str, ...]
    workers: int = Field(ge=0)


def tasks() -> list[str]:
    """The evaluations that exist, sorted."""
    return list(plugins.found(*EVALUATIONS))


def run(
    path: Path,
    task: str,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    alpha: float | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Evaluate a run or an export.

    Args:
        path: the run or export folder.
        task: see :func:`tasks`.
        options: of the evaluation, by name; ``data`` names the shards, and for a run is by default its recipe's
            ``data.eval``.
        device: default a GPU where there is one.
        alpha: see :func:`distill.ship.load.load`.
        skip_bad: leave out samples that cannot be used; the result then has "bad", their number, and "bad_examples".

    Raises:
        UserError: if there is no such task, an option of it does not hold, there is no data, or no such folder.
    """
    evaluation = with_options(task, dict(options or {}))
    if not evaluation.data and is_run(path):
        evaluation = evaluation.model_copy(update={"data": read_recipe(path).data.eval})
    model = load(path, device, alpha)
    if not evaluation.data:
        raise UserError("There is nothing to evaluate on.", "Name shards with --data.")
    context = replace(context_of(model), skip_bad=skip_bad)
    try:
        result = evaluation.evaluate(model, context)
    except BadSample as error:
        raise UserError(str(error), "To measure the other samples, add --skip-bad.") from error
    if skip_bad:
        result |= {"bad": len(context.bad), "bad_examples": [one._asdict() for one in context.bad[:EXAMPLES]]}
    return result


def with_options(task: str, options: dict[str, Any]) -> Evaluation:
    """The evaluation called ``task`` with its options.

    Raises:
        UserError: if there is none of that name, or an option of it is unknown or has a wrong value.
    """
    kind: type[Evaluation] = plugins.load("evaluation", task, *EVALUATIONS, plugins.is_subclass(Evaluation))
    try:
        return kind(**options)
    except ValidationError as error:
        raise UserError(*explain_options(error, kind, f"The evaluation '{task}'", "--set")) from error


def context_of(model: ImageText) -> Context:
    """How to read evaluation data for a model: as its training did.

    Raises:
        UserError: if the model's configuration does not say so.
    """
    recipe = model.config.provenance.get("recipe")
    try:
        settings = ReadingSettings.model_validate(recipe.get("data") if isinstance(recipe, dict) else None)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["provenance.recipe.data", *map(str, first["loc"])])
        raise UserError(
            f"The model's config.json does not say how its captions are read: {where}: {first['msg']}.",
            "Export the run again.",
        ) from error
    return Context(Captions(settings.caption_keys, settings.languages), settings.workers)
