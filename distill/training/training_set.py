"""The training set of a recipe: what every kind of it offers, and which kind a recipe has."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

from distill.data.batch import Batch
from distill.data.pairs import Part
from distill.errors import Bad
from distill.resolved import ResolvedRecipe
from distill.training.setup import Networks
from distill.training.shard_set import ShardSet
from distill.training.stream_set import StreamSet
from launch.launcher import Job
from students import Tokenizer


class TrainingSet(Protocol):
    """A recipe's training data, before training starts and while it goes on.

    Attributes:
        samples: of an epoch; where there are none, as many as the run is shown.
        shards: how many.
        commands: of a shell, which reading it runs.
    """

    samples: int
    shards: int
    commands: list[str]

    def preflight(self) -> list[Bad]:
        """Look for samples that cannot be used, as far as that can be known before training.

        Raises:
            UserError: if there are more of them than the recipe allows, or nothing can be trained on.
        """

    def check_unchanged(self, run: Path) -> None:
        """Refuse to resume a run that was started on something else.

        Raises:
            UserError: naming what has changed.
        """

    def texts(self) -> Iterator[str]:
        """Captions, for a tokenizer to be trained on.

        Raises:
            UserError: if more samples cannot be used than the recipe allows.
        """

    def fill_caches(self, networks: Networks, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Complete the teacher caches and compare them with the live teachers.

        Args:
            networks: loads the teachers.
            job: where to compute.

        Returns:
            By teacher, the fingerprint of its weights, and what the comparison found.

        Raises:
            UserError: if a cache is of something else or not true.
        """

    def save(self, run: Path) -> None:
        """Write into a run's folder what opening the set again needs."""

    def batches(self, tokenizer: Tokenizer | None, part: Part, pin: bool) -> Generator[list[Batch]]:
        """Every step's batch of one process, in pieces, loaded ahead.

        Raises:
            UserError: if it cannot go on.
        """

    def keys(self, step: int) -> list[str]:
        """The keys of all samples of a step, on all processes; empty where they are not known."""

    def close(self) -> None:
        """Close open files."""


def open_data(resolved: ResolvedRecipe) -> TrainingSet:
    """The training set of a recipe: local shards, whose headers are read here, or streams.

    Raises:
        UserError: if it is not there.
    """
    return _kind(resolved).open(resolved)


def open_data_again(resolved: ResolvedRecipe, run: Path) -> TrainingSet:
    """The training set of a run that has been prepared.

    Raises:
        UserError: if it cannot be read.
    """
    return _kind(resolved).open_again(resolved, run)


def _kind(resolved: ResolvedRecipe) -> type[ShardSet] | type[StreamSet]:
    return StreamSet if resolved.recipe.data.streamed else ShardSet
