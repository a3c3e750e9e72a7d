"""Training on indexed local shards: the sample order is known, so a resumed run continues it exactly."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.batch import Batch
from distill.data.captions import Captions
from distill.data.loading import load_batches
from distill.data.pairs import Part, Schedule, on_one_machine
from distill.data.shards import Shards
from distill.data.transform import MEMBERS
from distill.errors import Bad, BadSample, UserError
from distill.resolved import ResolvedRecipe
from distill.training import fill_caches
from distill.training.health import check_bad_samples, max_bad_samples
from distill.training.setup import Networks, caches_of, pairs_of
from launch.launcher import Job
from students import Tokenizer

SHARDS = "shards.safetensors"
TOKENIZER_SAMPLES = 1_000_000  # more samples change a vocabulary of the usual size very little


class ShardSet:
    """A :class:`~distill.training.training_set.TrainingSet` of local shards."""

    def __init__(self, resolved: ResolvedRecipe, data: Shards) -> None:
        self.resolved, self.recipe, self.data = resolved, resolved.recipe, data
        self.samples, self.shards, self.commands = len(data), len(data.indexes), list[str]()

    @classmethod
    def open(cls, resolved: ResolvedRecipe) -> ShardSet:
        """The shards that a recipe names."""
        return cls(resolved, Shards.open(resolved.recipe.data.train, strict=False))

    @classmethod
    def open_again(cls, resolved: ResolvedRecipe, run: Path) -> ShardSet:
        """The shards of a run, from the table that :meth:`save` wrote to its folder."""
        return cls(resolved, Shards.load(run / SHARDS))

    def preflight(self) -> list[Bad]:
        """List damaged shards, and samples that lack an image or caption that the run reads; only reads indexes."""
        bad = list(self.data.faults)
        for modality, members in MEMBERS.items():
            if modality in self.reads:
                name = {"image": "image", "text": "caption"}[modality]
                bad += [Bad(str(shard), key, f"there is no {name}") for shard, key in self.data.missing(*members)]
        if bad:
            count = len({(sample.shard, sample.key) for sample in bad}) + sum(sample.missing for sample in bad)
            check_bad_samples(count, self._max_bad_samples(), bad[-1], "before training")
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
        old, new = (
            {indexes.path(k): indexes.sha256[k].tobytes() for k in range(len(indexes))} for indexes in (before, now)
        )
        changed = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        raise UserError(
            f"The training data has changed since the run was started: {changed[0] if changed else 'its order'}.",
            "Restore it, or train into another folder.",
        )

    def texts(self) -> Iterator[str]:
        """All captions of a small data set; of a large one, those of evenly spaced samples."""
        captions, bad = Captions.from_table(self.recipe.data), 0
        for i in range(0, self.samples, 1 + self.samples // TOKENIZER_SAMPLES):
            try:
                yield from [c.text for c in captions.read(self.data.read(i, ["txt", "json"]))]
            except BadSample as error:
                bad += 1
                check_bad_samples(bad, self._max_bad_samples(), error.bad, "before training")

    def fill_caches(self, networks: Networks, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        audits = fill_caches.fill_and_audit(self.resolved, networks, self.data, job)
        caches = zip(self.resolved.cached, caches_of(self.resolved), strict=True)
        return {teacher.name: cache.weights(self.data) for teacher, cache in caches}, audits

    def save(self, run: Path) -> None:
        self.data.save(run / SHARDS)
        self.data.save_samples(run)

    def batches(self, tokenizer: Tokenizer | None, part: Part, pin: bool) -> Generator[list[Batch]]:
        pairs = pairs_of(self.resolved, self.data, tokenizer, on_one_machine(part.world))
        schedule = Schedule(
            pairs.order,
            pairs.batch_size,
            part.rank,
            part.world,
            part.start,
            part.stop,
            neighbours=pairs.transform.options.mixup > 0,
            pieces=part.pieces,
        )
        return load_batches(pairs, self.recipe.data.workers, pin, schedule, part.pieces)

    def keys(self, step: int) -> list[str]:
        size, order = self.recipe.train.batch_size, self.data.order_of(self.recipe.train.seed)
        return [self.data.key(i) for _, i in order.between(step * size, (step + 1) * size)]

    def close(self) -> None:
        self.data.close()

    @property
    def reads(self) -> set[str]:
        """The modalities that the run reads from samples: those of its students and of its online teachers."""
        online = {teacher.card.modality for teacher in self.resolved.teachers if teacher.online}
        # Images count even if the image tower is a locked teacher whose embeddings come from a cache.
        return {*self.resolved.modalities} | online

    def _max_bad_samples(self) -> int:
        return max_bad_samples(self.recipe, self.samples)
