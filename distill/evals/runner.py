"""Find an evaluation by name, and run it on a run or an export."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.config import Data
from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.errors import UserError, did_you_mean
from distill.ship.load import load
from distill.train import prepare


def tasks() -> list[str]:
    """The evaluations that exist: every module of this package that defines ``evaluate``, sorted."""
    package = importlib.import_module("distill.evals")
    modules = (info.name for info in pkgutil.iter_modules(package.__path__))
    return sorted(m for m in modules if hasattr(importlib.import_module(f"distill.evals.{m}"), "evaluate"))


def spoken(shards: Shards, captions: Captions) -> bool:
    """Whether any caption says that it is in one of the languages asked for."""
    samples = (shards.read(i, ["txt", "json"]) for i in range(len(shards)))
    return any(caption.language in captions.languages for sample in samples for caption in captions.read(sample))


def run(
    path: Path,
    task: str,
    data: Sequence[str],
    languages: tuple[str, ...] = (),
    device: str | None = None,
    alpha: float | None = None,
) -> dict[str, Any]:
    """Evaluate a run or an export.

    Args:
        path: the run or export folder.
        task: see :func:`tasks`.
        data: shards; for a run, none means its recipe's ``data.eval``.
        languages: only captions of these, and those without one; none means those it was trained with.
        device: default a GPU where there is one.
        alpha: see :func:`distill.ship.load.load`.

    Raises:
        UserError: if there is no such task, no data, or no such folder.
    """
    known = tasks()
    if task not in known:
        raise UserError(f"There is no evaluation '{task}'.", did_you_mean(task, known, f"Known: {', '.join(known)}."))
    if prepare.is_run(path):
        data = data or prepare.read_recipe(path).data.eval
    model = load(path, device, alpha)
    if not data:
        raise UserError("There is nothing to evaluate on.", "Name shards with --data.")
    # An export reads captions as its run did: what it was trained with stands in its configuration.
    trained = Data.model_validate(model.config.provenance["recipe"]["data"])
    captions = Captions(trained.caption_keys, languages or trained.languages)
    shards = Shards.open(data)
    for shard, key in shards.missing("image"):
        raise UserError(f"There is no image in sample '{key}' of {shard}.", "Add it or remove the sample.")
    if languages and not spoken(shards, captions):
        raise UserError(f"No caption says that its language is {' or '.join(languages)}.", "Leave out --language.")
    result: dict[str, Any] = importlib.import_module(f"distill.evals.{task}").evaluate(
        model, shards, captions, trained.workers
    )
    return result
