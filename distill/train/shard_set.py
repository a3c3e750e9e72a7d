"""Training on shards that are addressed: everything about their order is exact."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill.config import Recipe
from distill.data.batch import Batch
from distill.data.captions import Tokenizer
from distill.data.loading import batches
from distill.data.order import Order
from distill.data.pairs import Schedule
from distill.data.shards import Shards
from distill.errors import Bad, BadSample, UserError
from distill.train import fill_caches, setup
from distill.train.health import most_bad, refuse_too_many
from distill.train.training_set import Part
from launch.job import Job

SHARDS = "shards.safetensors"
TOKENIZER_SAMPLES = 1_000_000  # more of them change a vocabulary of usual size very little


class ShardSet:
    """A :class:`~distill.train.training_set.TrainingSet` of local shards."""

    def __init__(self, recipe: Recipe, data: Shards) -> None:
        self.recipe, self.data = recipe, data
        self.samples, self.shards, self.commands = len(data), len(data.indexes), list[str]()

    @classmethod
    def of(cls, recipe: Recipe) -> ShardSet:
        return cls(recipe, Shards.of(recipe.data.train, strict=False))

    @classmethod
    def load(cls, recipe: Recipe, run: Path) -> ShardSet:
        return cls(recipe, Shards.load(run / SHARDS))

    def check(self) -> list[Bad]:
        """By the shards' headers."""
        bad = list(self.data.faults)
        for what, kinds in {"image": ("image",), "caption": ("txt", "json")}.items():
            bad += [Bad(str(shard), key, f"there is no {what}") for shard, key in self.data.missing(*kinds)]
        if bad:
            count = len({(one.shard, one.key) for one in bad}) + sum(one.missing for one in bad)
            refuse_too_many(count, self._most_bad(), bad[-1], "before training")
            print(
                f"{count} bad samples are passed over; the first: {bad[0].shard} {bad[0].key}: {bad[0].reason}",
                file=sys.stderr,
            )
        if self.recipe.train.batch_size > self.samples:
            raise UserError(
                f"train.batch_size = {self.recipe.train.batch_size} is more than the {self.samples} training samples: "
                "a batch would hold an image twice, as its own negative.",
                "Choose a smaller train.batch_size.",
            )
        return bad

    def check_unchanged(self, run: Path) -> None:
        before, now = Shards.load(run / SHARDS).indexes, self.data.indexes
        if np.array_equal(before.names, now.names) and np.array_equal(before.sha256, now.sha256):
            return
        olds, news = ({of.path(k): of.sha256[k].tobytes() for k in range(len(of))} for of in (before, now))
        changed = sorted(path for path in olds.keys() | news.keys() if olds.get(path) != news.get(path))
        raise UserError(
            f"The training data has changed since the run was started: {changed[0] if changed else 'its order'}.",
            "Restore it, or train into another folder.",
        )

    def texts(self) -> Iterator[str]:
        """All of a small set, those of evenly spaced samples of a large one."""
        captions, bad = setup.captions_of(self.recipe), 0
        for i in range(0, self.samples, 1 + self.samples // TOKENIZER_SAMPLES):
            try:
                yield from [c.text for c in captions.of(self.data.read(i, ["txt", "json"]))]
            except BadSample as error:
                bad += 1
                refuse_too_many(bad, self._most_bad(), error.bad, "before training")

    def embed(self, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        audits = fill_caches.fill_and_audit(self.recipe, self.data, job)
        return {name: cache.weights(self.data) for name, cache in fill_caches.cached(self.recipe).items()}, audits

    def save(self, run: Path) -> None:
        self.data.save(run / SHARDS)

    def batches(self, tokenizer: Tokenizer, part: Part, pin: bool) -> Generator[list[Batch]]:
        pairs = setup.pairs_of(self.recipe, self.data, tokenizer)
        schedule = Schedule(
            pairs.order,
            pairs.batch_size,
            part.rank,
            part.world,
            part.start,
            part.stop,
            neighbours=pairs.transform.drawing.mixup > 0,
            pieces=part.pieces,
        )
        return batches(pairs, self.recipe.data.workers, pin, schedule, part.pieces)

    def keys(self, step: int) -> list[str]:
        size, order = self.recipe.train.batch_size, Order(self.data.counts, self.recipe.train.seed)
        return [self.data.key(i) for _, i in order.take(step * size, (step + 1) * size)]

    def close(self) -> None:
        self.data.close()

    def _most_bad(self) -> int:
        return most_bad(self.recipe, self.samples)
