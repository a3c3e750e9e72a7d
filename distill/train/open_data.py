"""Which kind of training set a recipe is trained on. Whoever asks here need not know."""

from __future__ import annotations

from pathlib import Path

from distill.config import Recipe
from distill.train.shard_set import ShardSet
from distill.train.stream_set import StreamSet
from distill.train.training_set import TrainingSet


def of(recipe: Recipe) -> TrainingSet:
    """The training set of a recipe, looked through.

    Raises:
        UserError: if it is not there.
    """
    return _kind(recipe).of(recipe)


def of_run(recipe: Recipe, run: Path) -> TrainingSet:
    """The training set of a run that has been prepared.

    Raises:
        UserError: if it cannot be read.
    """
    return _kind(recipe).load(recipe, run)


def _kind(recipe: Recipe) -> type[ShardSet] | type[StreamSet]:
    return StreamSet if recipe.data.streamed else ShardSet
