"""What a run is trained on: shards that are addressed, or streams. Nothing else here knows which."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from distill.data.batch import Batch
from distill.data.captions import Tokenizer
from distill.errors import Bad
from launch.job import Job


class Part(NamedTuple):
    """One process's part of a training.

    Attributes:
        rank, world: which process of how many.
        pieces: in which each of its batches comes.
        start, stop: the steps.
    """

    rank: int
    world: int
    pieces: int
    start: int
    stop: int


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

    def check(self) -> list[Bad]:
        """What can be known beforehand of samples that cannot be used.

        Raises:
            UserError: if there are more of them than the recipe allows, or nothing can be trained on.
        """

    def check_unchanged(self, run: Path) -> None:
        """Refuse to resume a run that was started on something else.

        Raises:
            UserError: naming what is another.
        """

    def texts(self) -> Iterator[str]:
        """Captions, for a tokenizer to be trained on.

        Raises:
            UserError: if more samples cannot be used than the recipe allows.
        """

    def embed(self, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Complete the teacher caches and compare them with the live teachers.

        Args:
            job: where to embed.

        Returns:
            By teacher, the fingerprint of its weights, and what the comparison found.

        Raises:
            UserError: if a cache is of something else or not true.
        """

    def save(self, run: Path) -> None:
        """Write into a run's folder what :func:`distill.train.open_data.of_run` needs."""

    def batches(self, tokenizer: Tokenizer, part: Part, pin: bool) -> Generator[list[Batch]]:
        """Every step's batch of one process, in pieces, loaded ahead.

        Raises:
            UserError: if it cannot go on.
        """

    def keys(self, step: int) -> list[str]:
        """The keys of all samples of a step, on all processes; empty where nobody knows."""

    def close(self) -> None:
        """Let go of what is open."""
