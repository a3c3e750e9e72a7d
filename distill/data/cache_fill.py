"""Filling teacher caches: which shards are missing in which, the space that they take, and their embedding."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.data.cache import Cache
from distill.data.caption_cache import CaptionCache
from distill.data.caption_fill import embed_captions
from distill.data.shards import Shards
from distill.data.view_cache import ViewCache
from distill.data.view_fill import embed_views
from distill.errors import UserError
from distill.files import nearest_folder
from distill.wording import in_bytes

if TYPE_CHECKING:
    from teachers import Teacher


@dataclass(frozen=True)
class MissingShards:
    """The shards that are missing in at least one of several caches.

    Attributes:
        shards: these shards.
        missing_in: for each of them, the numbers of the caches in which it is missing.
    """

    shards: Shards
    missing_in: tuple[tuple[int, ...], ...]

    @classmethod
    def find(cls, caches: Sequence[Cache], shards: Shards) -> MissingShards:
        """Find the missing shards.

        Raises:
            UserError: if a cache folder has another identity than the recipe's, or is damaged.
        """
        missing = [{index.path for index in cache.missing(shards)} for cache in caches]
        paths = [shards.indexes.path(n) for n in range(len(shards.indexes))]
        missing_in = [tuple(k for k, missing_paths in enumerate(missing) if path in missing_paths) for path in paths]
        chosen = [n for n, numbers in enumerate(missing_in) if numbers]
        return cls(shards.subset(chosen), tuple(missing_in[n] for n in chosen))

    def __bool__(self) -> bool:
        return bool(self.missing_in)

    def part(self, rank: int, world: int) -> MissingShards:
        """One process's share: every ``world``-th shard, beginning with shard ``rank``."""
        chosen = range(rank, len(self.missing_in), world)
        return MissingShards(self.shards.subset(chosen), self.missing_in[rank::world])

    def steps(self, caches: Sequence[Cache]) -> int:
        """How many samples :func:`embed` goes through; those of which images and captions are missing count twice."""
        pairs = zip(self.shards.indexes, self.missing_in, strict=True)
        return sum(len(index) * len({type(caches[k]) for k in numbers}) for index, numbers in pairs)

    def samples(self, cache: int) -> int:
        """The number of samples that are missing in a cache, given its number."""
        pairs = zip(self.shards.indexes, self.missing_in, strict=True)
        return sum(len(index) for index, numbers in pairs if cache in numbers)


def check_space(caches: Sequence[Cache], missing: MissingShards) -> None:
    """Raise ``UserError`` if a disk has too little space for the missing shards."""
    needs: dict[int, tuple[int, Path]] = {}
    rows = rows_per_sample(caches, missing)
    for index, numbers in zip(missing.shards.indexes, missing.missing_in, strict=True):
        for k in numbers:
            folder = nearest_folder(caches[k].folder(index.path))
            before = needs.get(folder.stat().st_dev, (0, folder))[0]
            needs[folder.stat().st_dev] = before + caches[k].bytes_of(len(index) * rows[k]), folder
    for need, folder in needs.values():
        free = shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"The teacher cache takes {in_bytes(need)}, and {folder} has {in_bytes(free)} left.",
                'Name another folder as teacher.N.cache, lower teacher.N.views, or set teacher.N.cache = "none".',
            )


def rows_per_sample(caches: Sequence[Cache], missing: MissingShards) -> dict[int, float]:
    """By number of the cache, how many rows a sample has, of the caches in which shards are missing."""
    return {k: cache.rows_per_sample(missing.shards) for k, cache in enumerate(caches) if missing.samples(k)}


def describe_space(caches: Sequence[Cache], missing: MissingShards) -> str:
    """The size of the missing outputs of each cache, as text."""
    found = list[str]()
    for k, rows in rows_per_sample(caches, missing).items():
        cache, samples = caches[k], missing.samples(k)
        what = f"{cache.describe(samples, samples * rows)}, {cache.width} × {cache.table.dtype}"
        found.append(f"{cache.card.name} {in_bytes(cache.bytes_of(samples * rows))} ({what})")
    return ", ".join(found)


def embed(
    caches: Sequence[Cache],
    teacher_of: Callable[[int], Teacher],
    missing: MissingShards,
    workers: int,
    advance: Callable[[int], object],
) -> None:
    """Embed the missing shards. A shard's file appears when it is complete; existing files are not changed.

    An image that does not decode gets no embedding, and its row in the file is marked as absent. A sample whose
    captions cannot be read has no rows.

    Args:
        caches: all caches.
        teacher_of: returns the loaded teacher of cache k, on the device on which it runs; it is called only for
            caches in which shards are missing.
        missing: the missing shards.
        workers: the number of loader processes.
        advance: called with the number of samples embedded since the last call, see :meth:`MissingShards.steps`.

    Raises:
        UserError: if an embedding is NaN or too large for the cache's dtype, or a file cannot be written.
    """
    for numbers in sorted(set(missing.missing_in)):  # shards that are missing in the same caches share a loader
        shards = missing.shards.subset([n for n, others in enumerate(missing.missing_in) if others == numbers])
        # Views and captions are different files of a sample, so each kind of cache reads them for itself.
        if views := [(k, one) for k in numbers if isinstance(one := caches[k], ViewCache)]:
            live = [teacher_of(k) for k, _ in views]
            embed_views([cache for _, cache in views], live, shards, workers, advance)
        if captions := [(k, one) for k in numbers if isinstance(one := caches[k], CaptionCache)]:
            live = [teacher_of(k) for k, _ in captions]
            embed_captions([cache for _, cache in captions], live, shards, workers, advance)
        shards.close()
