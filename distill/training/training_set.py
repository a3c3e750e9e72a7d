"""The training set of a recipe: the interface of local shards and streams, and the choice between them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

from distill.data.batch import Batch
from distill.data.captions import Caption
from distill.data.pairs import Part
from distill.errors import Bad
from distill.resolved import ResolvedRecipe
from distill.training.setup import Networks
from distill.training.shard_set import ShardSet
from distill.training.stream_set import StreamSet
from launch.launcher import Job
from students import Tokenizer


class TrainingSet(Protocol):
    """A recipe's training data, before and during training.

    Attributes:
        samples: the number of samples of an epoch; for streams, which have no epochs, that of the whole run.
        pictures: the number of further pictures, without captions.
        shards: the number of shards.
        commands: the shell commands that reading the data runs.
    """

    samples: int
    pictures: int
    shards: int
    commands: list[str]

    def preflight(self) -> list[Bad]:
        """List the samples that cannot be used, as far as is known before training.

        Raises:
            UserError: if there are more of them than the recipe allows, or no sample can be read.
        """

    def continue_with(self, run: Path) -> None:
        """Check that a run was started on the same data, and take them in its order, wherever they lie now.

        Raises:
            UserError: if it was not; the message names a shard that has changed.
        """

    def captions(self, samples: int) -> Iterator[Caption]:
        """All captions of at most so many samples: evenly spaced ones of shards, the first ones of streams.

        Raises:
            UserError: if more samples are unusable than the recipe allows.
        """

    def fill_caches(self, networks: Networks, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Complete the teacher caches and compare a sample of their rows with the teachers' outputs.

        Args:
            networks: loads the teachers.
            job: the processes that compute.

        Returns:
            By name of the teacher: the fingerprint of its weights; and the result of the comparison.

        Raises:
            UserError: if a cache has another identity than the recipe's, or a row differs from the teacher's output.
        """

    def save(self, run: Path) -> None:
        """Write to a run folder the files that :func:`open_data_again` reads."""

    def batches(self, tokenizer: Tokenizer | None, part: Part, pin: bool) -> Generator[list[Batch]]:
        """One process's share of every step's batch, as a list of micro-batches, prefetched.

        Raises:
            UserError: if the data cannot be read any further.
        """

    def keys(self, step: int) -> list[str]:
        """The keys of all samples of a step's global batch; empty for streams, whose order is not known."""

    def close(self) -> None:
        """Close open files."""


def open_data(resolved: ResolvedRecipe) -> TrainingSet:
    """The training set of a recipe: local shards, whose headers are read here, or streams.

    Raises:
        UserError: if the data does not exist.
    """
    return _class_of(resolved).open(resolved)


def open_data_again(resolved: ResolvedRecipe, run: Path) -> TrainingSet:
    """The training set of a prepared run.

    Raises:
        UserError: if it cannot be read.
    """
    return _class_of(resolved).open_again(resolved, run)


def _class_of(resolved: ResolvedRecipe) -> type[ShardSet] | type[StreamSet]:
    return StreamSet if resolved.recipe.data.streamed else ShardSet
