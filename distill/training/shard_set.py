"""Training on indexed local shards and pictures: the sample order is known, so a resumed run continues it exactly."""

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
from distill.data.pairs import JoinedSchedule, Pairs, Part, Schedule, on_one_machine
from distill.data.shards import SAMPLES, Shards
from distill.data.transform import MEMBERS
from distill.errors import Bad, BadSample, UserError
from distill.resolved import ResolvedRecipe
from distill.training import fill_caches
from distill.training.caches import caches_of
from distill.training.health import check_bad_samples, max_bad_samples
from distill.training.setup import Networks, pairs_of, with_pictures
from distill.wording import counted
from launch.launcher import Job
from students import Tokenizer

SHARDS = "shards.safetensors"
PICTURES = "pictures"  # the folder of the same files about data.pictures


class ShardSet:
    """A :class:`~distill.training.training_set.TrainingSet` of local shards.

    Args:
        resolved: the recipe.
        data: the shards of ``data.train``.
        beside: those of ``data.pictures``, if there are any.
    """

    def __init__(self, resolved: ResolvedRecipe, data: Shards, beside: Shards | None) -> None:
        self.resolved, self.recipe = resolved, resolved.recipe
        self.sets: tuple[Shards, ...] = (data,) if beside is None else (data, beside)
        self.samples, self.pictures = len(data), 0 if beside is None else len(beside)
        self.shards, self.commands = sum(len(one.indexes) for one in self.sets), list[str]()

    @classmethod
    def open(cls, resolved: ResolvedRecipe) -> ShardSet:
        """The shards that a recipe names; see :func:`~distill.data.overlap.check_apart`.

        Raises:
            UserError: if they do not exist, or captions are read and there are only pictures.
        """
        data = resolved.recipe.data
        shards = Shards.open(data.train, strict=False)
        check_apart(shards, data.train, data.eval)
        opened = cls(resolved, shards, Shards.open(data.pictures, strict=False) if data.pictures else None)
        if "text" in opened.reads and shards.holds_pictures:
            raise UserError(
                f"The recipe trains on captions, and {', '.join(data.train)} holds pictures without any.",
                "Make shards of pictures and captions with 'distill data pack' and name the pictures without captions "
                "as data.pictures, or train an image student alone: distill train image_only.",
            )
        return opened

    @classmethod
    def open_again(cls, resolved: ResolvedRecipe, run: Path) -> ShardSet:
        """The shards of a run, from the table that :meth:`save` wrote to its folder."""
        beside = Shards.load(run / PICTURES / SHARDS) if resolved.recipe.data.pictures else None
        return cls(resolved, Shards.load(run / SHARDS), beside)

    def preflight(self) -> list[Bad]:
        """List damaged shards, and samples that lack an image or caption that the run reads; only reads indexes."""
        bad = [fault for one in self.sets for fault in one.faults]
        for modality, members in MEMBERS.items():
            name = {"image": "image", "text": "caption"}[modality]
            for one in self.sets if modality == "image" else self.sets[:1]:
                if modality in self.reads:
                    bad += [Bad(str(shard), key, f"there is no {name}") for shard, key in one.missing(*members)]
        if bad:
            count = len({(sample.shard, sample.key) for sample in bad}) + sum(sample.missing for sample in bad)
            check_bad_samples(count, self._max_bad_samples(), bad[-1], "before training")
            first = f"{bad[0].shard} {bad[0].key}: {bad[0].reason}"
            passed = counted(count, "bad sample is", "bad samples are")
            print(f"{passed} passed over; the first: {first}", file=sys.stderr)
        for one, size, name in zip(self.sets, self.recipe.batch_parts, ("train", "pictures"), strict=False):
            if size > len(one):
                what = (
                    f"The part of data.{name} in a batch, {size}," if self.pictures else f"train.batch_size = {size}"
                )
                raise UserError(
                    f"{what} is more than the {counted(len(one), 'training sample')}: a batch would hold an image "
                    "twice, as its own negative.",
                    "Choose a smaller train.batch_size.",
                )
        return bad

    def continue_with(self, run: Path) -> None:
        """Take the shards in the order of the run, wherever they lie now."""
        folders = (run, run / PICTURES)
        self.sets = tuple(
            in_order_of(Shards.load(at / SHARDS), one) for at, one in zip(folders, self.sets, strict=False)
        )

    def captions(self, samples: int) -> Iterator[Caption]:
        captions, bad, data = Captions.from_table(self.recipe.data), 0, self.sets[0]
        for i in range(0, self.samples, 1 + (self.samples - 1) // samples):
            try:
                yield from captions.read(data.read(i, ["txt", "json"]))
            except BadSample as error:
                bad += 1
                check_bad_samples(bad, self._max_bad_samples(), error.bad, "before training")

    def fill_caches(self, networks: Networks, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        joined = Shards.joined(self.sets)
        audits = fill_caches.fill_and_audit(self.resolved, networks, joined, job)
        caches = zip(self.resolved.cached, caches_of(self.resolved), strict=True)
        return {teacher.name: cache.weights(joined) for teacher, cache in caches}, audits

    def save(self, run: Path) -> None:
        for folder, one in zip((run, run / PICTURES), self.sets, strict=False):
            folder.mkdir(exist_ok=True)
            shutil.rmtree(folder / SAMPLES, ignore_errors=True)  # that of a run whose shards have been moved
            one.save(folder / SHARDS)
            one.save_samples(folder)

    def batches(self, tokenizer: Tokenizer | None, part: Part, pin: bool) -> Generator[list[Batch]]:
        pairs, workers = (
            pairs_of(self.resolved, self.sets[0], tokenizer, on_one_machine(part.world)),
            self.recipe.data.workers,
        )
        if len(self.sets) == 1:
            return load_batches(pairs, workers, pin, schedule_of(pairs, part), part.pieces)
        joined = with_pictures(self.resolved, pairs, self.sets[1])
        schedule = JoinedSchedule([schedule_of(one, part) for one in joined.datasets])
        return load_batches(joined, workers, pin, schedule, part.pieces)

    def keys(self, step: int) -> list[str]:
        return [
            one.key(i)
            for one, size in zip(self.sets, self.recipe.batch_parts, strict=False)
            for _, i in one.order_of(self.recipe.train.seed).between(step * size, (step + 1) * size)
        ]

    def close(self) -> None:
        for one in self.sets:
            one.close()

    @property
    def reads(self) -> set[str]:
        """The modalities that the run reads from samples: those of its students and teachers.

        Not images for the cache of an image teacher; for that of captions these are read, to draw among them.
        """
        read = {teacher.card.modality for teacher in self.resolved.teachers if teacher.reads_samples}
        # Images count even if the image tower is a locked teacher whose embeddings come from a cache.
        return {*self.resolved.modalities} | read

    def _max_bad_samples(self) -> int:
        return max_bad_samples(self.recipe, self.samples + self.pictures)


def in_order_of(earlier: Shards, data: Shards) -> Shards:
    """The shards in the order of those of a run, of which they are the same, wherever they lie now.

    Raises:
        UserError: if they are not the same.
    """
    before, now = earlier.indexes, data.indexes
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
        data = data.subset(order)
    data.order = earlier.order
    return data


def schedule_of(pairs: Pairs, part: Part) -> Schedule:
    """The slots of one process's part of the batches of a data set."""
    neighbours = pairs.transform.options.mixup > 0
    return Schedule(
        pairs.order, pairs.batch_size, part.rank, part.world, part.start, part.stop, neighbours, part.pieces
    )
