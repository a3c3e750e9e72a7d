"""The samples of shards that an evaluation can use, with those that it cannot use counted and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from distill.data.captions import Captions
from distill.data.index import KINDS
from distill.data.sample import Sample
from distill.data.shards import Shards
from distill.data.views import decode
from distill.errors import Bad, BadSample, UserError
from distill.evals.dataset import Samples


class ChosenSamples(Shards):
    """Some samples of shards, numbered from 0, to be used like :class:`~distill.data.shards.Shards`.

    Args:
        shards: the shards.
        numbers: of the samples, ascending.
    """

    def __init__(self, shards: Shards, numbers: Sequence[int]) -> None:
        super().__init__(shards.indexes, shards.counts, table=shards.table)
        self.numbers = np.asarray(numbers, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def key(self, i: int) -> str:
        return super().key(int(self.numbers[i]))

    def read(self, i: int, kinds: Sequence[str] = KINDS) -> Sample:
        return super().read(int(self.numbers[i]), kinds)

    def missing(self, *kinds: str) -> Iterator[tuple[Path, str]]:
        """Nothing: every chosen sample is complete."""
        return iter(())


def usable_samples(shards: Shards, captions: Captions | None, bad: list[Bad]) -> ChosenSamples:
    """The samples whose image decodes and, with ``captions``, that have a caption.

    Args:
        shards: opened without ``strict``.
        captions: how captions are read; None if none are needed.
        bad: receives the records of the others, and of damaged archives.

    Raises:
        UserError: if no sample is left.
    """
    bad.extend(shards.faults)

    def check(sample: Sample) -> None:
        decode(sample)
        if captions is not None:
            captions.read(sample)

    return ChosenSamples(shards, usable_numbers(shards, check, bad))


def usable_numbers(samples: Samples, check: Callable[[Sample], object], bad: list[Bad]) -> list[int]:
    """The numbers of the samples that pass a check, which raises ``BadSample``.

    Args:
        samples: to be read.
        check: of one sample.
        bad: receives the records of the others.

    Raises:
        UserError: if no sample is left.
    """
    good = []
    for i in range(len(samples)):
        try:
            check(samples.read(i))
        except BadSample as error:
            bad.append(error.bad)
        else:
            good.append(i)
    if not good:
        last = f"{bad[-1].shard} {bad[-1].key}: {bad[-1].reason}" if bad else "there is none"
        raise UserError(f"No sample of the evaluation data can be used; the last: {last}.", "Name other data.")
    return good
