"""Training on indexed local shards: the sample order is known, so a resumed run continues it exactly."""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from distill.data.batch import Batch
from distill.data.captions import Caption, Captions
from distill.data.loading import load_batches
from distill.data.overlap import check_apart
from distill.data.pairs import Part, Schedule, on_one_machine
from distill.data.shards import SAMPLES, Shards
from distill.data.transform import MEMBERS
from distill.errors import Bad, BadSample, UserError
from distill.resolved import ResolvedRecipe
from distill.training import fill_caches
from distill.training.health import check_bad_samples, max_bad_samples
from distill.training.setup import Networks, caches_of, pairs_of
from distill.wording import counted
from launch.launcher import Job
from students import Tokenizer

SHARDS = "shards.safetensors"


class ShardSet:
    """A :class:`~distill.training.training_set.TrainingSet` of local shards."""

    def __init__(self, resolved: ResolvedRecipe, data: Shards) -> None:
        self.resolved, self.recipe, self.data = resolved, resolved.recipe, data
        self.samples, self.shards, self.commands = len(data), len(data.indexes), list[str]()

    @classmethod
    def open(cls, resolved: ResolvedRecipe) -> ShardSet:
        """The shards that a recipe names; see :func:`~distill.data.overlap.check_apart`."""
        data = resolved.recipe.data
        shards = Shards.open(data.train, strict=False)
        check_apart(shards, data.train, data.eval)
        return cls(resolved, shards)

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
            first = f"{bad[0].shard} {bad[0].key}: {bad[0].reason}"
            passed = counted(count, "bad sample is", "bad samples are")
            print(f"{passed} passed over; the first: {first}", file=sys.stderr)
        if self.recipe.train.batch_size > self.samples:
            raise UserError(
                f"train.batch_size = {self.recipe.train.batch_size} is more than the "
                f"{counted(self.samples, 'training sample')}: a batch would hold an image twice, as its own negative.",
                "Choose a smaller train.batch_size.",
            )
        return bad

    def continue_with(self, run: Path) -> None:
        """Take the shards in the order of the run, wherever they lie now."""
        earlier = Shards.load(run / SHARDS)
        before, now = earlier.indexes, self.data.indexes
        places = defaultdict[bytes, list[int]](list)
        for k in range(len(now)):
            places[now.sha256[k].tobytes()].append(k)
        order, missing = list[int](), list[Path]()
        for k in range(len(before)):
            found = places[before.sha256[k].tobytes()]
            if found:
                order.append(found.pop(0))
            else:
                missing.append(before.path(k))
        others = [now.path(k) for left in places.values() for k in left]
        if missing or others:
            raise UserError(
                f"The training data has changed since the run was started: {min(missing or others)}.",
                "Restore it, or train into another folder.",
            )
        if order != list(range(len(now))):
            self.data = self.data.subset(order)
        self.data.order = earlier.order

    def captions(self, samples: int) -> Iterator[Caption]:
        captions, bad = Captions.from_table(self.recipe.data), 0
        for i in range(0, self.samples, 1 + (self.samples - 1) // samples):
            try:
                yield from captions.read(self.data.read(i, ["txt", "json"]))
            except BadSample as error:
                bad += 1
                check_bad_samples(bad, self._max_bad_samples(), error.bad, "before training")

    def fill_caches(self, networks: Networks, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        audits = fill_caches.fill_and_audit(self.resolved, networks, self.data, job)
        caches = zip(self.resolved.cached, caches_of(self.resolved), strict=True)
        return {teacher.name: cache.weights(self.data) for teacher, cache in caches}, audits

    def save(self, run: Path) -> None:
        shutil.rmtree(run / SAMPLES, ignore_errors=True)  # that of a run whose shards have been moved
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
