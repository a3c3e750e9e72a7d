"""Filling teacher caches: each image is decoded once for all teachers whose caches lack its outputs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import Dataset, default_collate

from distill.data.cache import Cache
from distill.data.loading import prefetch
from distill.data.shards import Shards
from distill.data.views import Views, decode
from distill.errors import BadSample, UserError
from distill.files import abandoned, nearest_folder
from distill.wording import counted, in_bytes

if TYPE_CHECKING:
    from teachers import Teacher

BATCH = 64  # images per teacher forward: enough to keep a device busy, few enough to fit its memory


class PixelFormat(NamedTuple):
    """The pixels that one encoder reads: the number of views of an image, and how they are resized."""

    views: int
    side: int
    interpolation: str


Batches = Generator[tuple[list[torch.Tensor], dict[int, BadSample]]]


class ViewPixels(Dataset[list[torch.Tensor]]):
    """Views of every image: item i is one tensor [views, 3, side, side] uint8 for each entry of ``formats``."""

    def __init__(self, shards: Shards, views: Views, formats: Sequence[PixelFormat]) -> None:
        self.shards, self.views, self.formats = shards, views, list(formats)

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, i: int) -> list[torch.Tensor] | UserError:  # type: ignore[override]
        try:
            sample = self.shards.read(i, ["image"])
            image = decode(sample)
        except UserError as error:  # for the main process to raise: a loader process would wrap it in its traceback
            return error
        return [
            torch.stack(
                [
                    self.views.draw(sample.key, view, image.size).render(image, side, interpolation)
                    for view in range(views)
                ]
            )
            for views, side, interpolation in self.formats
        ]

    def batches(
        self, samples: Sequence[Sequence[int]], workers: int, pin: bool = False, strict: bool = True
    ) -> Batches:
        """Batches of pixels, prefetched.

        Args:
            samples: the sample numbers of each batch.
            workers: the number of loader processes.
            pin: whether to load into page-locked memory.
            strict: raise at the first sample that cannot be used.

        Yields:
            For each list of n samples, one uint8 tensor [n, views, 3, side, side] for each entry of ``formats``; and
            the errors of samples that cannot be used, by row. The pixels of those rows are zero.

        Raises:
            UserError: if a shard cannot be read, or with ``strict`` a sample cannot be used.
        """
        loading = {"batch_sampler": samples, "collate_fn": self._collate}
        with closing(prefetch(self, workers, pin, **loading)) as loader:
            for batch, errors in loader:
                for error in errors.values():
                    if strict or not isinstance(error, BadSample):
                        raise error
                yield batch, errors

    def _collate(self, items: list[list[torch.Tensor] | UserError]) -> tuple[list[torch.Tensor], dict[int, UserError]]:
        errors = {row: item for row, item in enumerate(items) if isinstance(item, UserError)}
        blank = [torch.zeros(views, 3, side, side, dtype=torch.uint8) for views, side, _ in self.formats]
        parts = [blank if isinstance(item, UserError) else item for item in items]
        # Collated directly in memory that the processes share.
        return [default_collate(list(column)) for column in zip(*parts, strict=True)], errors


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

    def images(self, cache: int) -> int:
        """The number of images that are missing in a cache, given its number."""
        pairs = zip(self.shards.indexes, self.missing_in, strict=True)
        return sum(len(index) for index, numbers in pairs if cache in numbers)


def check_space(caches: Sequence[Cache], missing: MissingShards) -> None:
    """Raise ``UserError`` if a disk has too little space for the missing shards."""
    needs: dict[int, tuple[int, Path]] = {}
    for index, numbers in zip(missing.shards.indexes, missing.missing_in, strict=True):
        for cache in (caches[k] for k in numbers):
            folder = nearest_folder(cache.folder(index.path))
            before = needs.get(folder.stat().st_dev, (0, folder))[0]
            needs[folder.stat().st_dev] = before + cache.bytes_of(len(index)), folder
    for need, folder in needs.values():
        free = shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"The teacher cache takes {in_bytes(need)}, and {folder} has {in_bytes(free)} left.",
                'Name another folder as teacher.N.cache, lower teacher.N.views, or set teacher.N.cache = "none".',
            )


def describe_space(caches: Sequence[Cache], missing: MissingShards) -> str:
    """The size of the missing outputs of each cache, as text."""
    return ", ".join(
        f"{cache.card.name} {in_bytes(cache.bytes_of(missing.images(k)))} "
        f"({counted(missing.images(k), 'image')}, {counted(cache.table.views, 'view')}, "
        f"{cache.width} × {cache.table.dtype})"
        for k, cache in enumerate(caches)
        if missing.images(k)
    )


def embed(
    caches: Sequence[Cache],
    teacher_of: Callable[[int], Teacher],
    missing: MissingShards,
    workers: int,
    advance: Callable[[int], object],
) -> None:
    """Embed the missing shards. A shard's file appears when it is complete; existing files are not changed.

    An image that does not decode gets no embedding, and its row in the file is marked as absent.

    Args:
        caches: all caches.
        teacher_of: returns the loaded teacher of cache k, on the device on which it runs; it is called only for
            caches in which shards are missing.
        missing: the missing shards.
        workers: the number of loader processes.
        advance: called with the number of images embedded since the last call.

    Raises:
        UserError: if an embedding is NaN or too large for the cache's dtype, or a file cannot be written.
    """
    for numbers in sorted(set(missing.missing_in)):  # shards that are missing in the same caches share a loader
        shards = missing.shards.subset([n for n, others in enumerate(missing.missing_in) if others == numbers])
        _embed([caches[k] for k in numbers], [teacher_of(k) for k in numbers], shards, workers, advance)
        shards.close()


def _embed(
    caches: Sequence[Cache], live: Sequence[Teacher], shards: Shards, workers: int, advance: Callable[[int], object]
) -> None:
    formats = [PixelFormat(c.table.views, c.identity["image_size"], c.card.interpolation) for c in caches]
    per_batch = max(1, BATCH // max(pixel_format.views for pixel_format in formats))
    samples = [
        range(first, min(first + per_batch, int(stop)))
        for start, stop in zip(shards.starts, shards.starts[1:], strict=False)
        for first in range(int(start), int(stop), per_batch)
    ]
    fingerprints, device = [teacher.fingerprint() for teacher in live], live[0].mean.device
    pixels = ViewPixels(shards, caches[0].views, formats)
    with closing(pixels.batches(samples, workers, pin=device.type == "cuda", strict=False)) as batches:
        for index in shards.indexes:
            for cache, weights in zip(caches, fingerprints, strict=True):
                remove_unfinished(cache.file(index.path))
                cache.claim(index, weights)
            outputs, absent = _embed_shard(caches, live, len(index), batches, advance)
            for cache, by_name, weights in zip(caches, outputs, fingerprints, strict=True):
                for rows in by_name.values():
                    check_finite(cache, index.path, rows)
                cache.write(index, by_name, weights, absent)


def _embed_shard(
    caches: Sequence[Cache], live: Sequence[Teacher], size: int, batches: Batches, advance: Callable[[int], object]
) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
    """For each cache the outputs by name, [views, size, …]; and the rows without an image, which are zero."""
    device = live[0].mean.device
    # On the device until the shard is done: copying every batch to the CPU would wait for the device each time.
    results = [
        {
            name: torch.zeros(cache.table.views, size, *shape, dtype=cache.dtype, device=device)
            for name, shape in cache.shapes.items()
        }
        for cache in caches
    ]
    absent: list[int] = []
    done = 0
    while done < size:
        batch, errors = next(batches)
        n = len(batch[0])
        absent += [done + row for row in errors]
        for cache, teacher, outputs, pixels in zip(caches, live, results, batch, strict=True):
            computed = teacher(pixels.flatten(0, 1).to(device, non_blocking=True))
            for name, rows in outputs.items():
                rows[:, done : done + n] = computed[name].unflatten(0, (n, cache.table.views)).transpose(0, 1)
        done += n
        advance(n)
    for outputs in results:
        for rows in outputs.values():
            rows[:, absent] = 0
    return [{name: rows.cpu() for name, rows in outputs.items()} for outputs in results], absent


def check_finite(cache: Cache, shard: Path, rows: torch.Tensor) -> None:
    """Raise ``UserError`` if rows hold NaN, or were too large for the cache's dtype."""
    if rows.isnan().any() or (cache.table.dtype == "fp32" and not rows.isfinite().all()):
        raise UserError(
            f"'{cache.card.name}' gives embeddings of {shard.name} that are no numbers: its weights are damaged.",
            f"Get them again: {cache.card.source or cache.card.install}.",
        )
    if not rows.isfinite().all():
        raise UserError(
            f"'{cache.card.name}' gives embeddings of {shard.name} that {cache.table.dtype} cannot hold.",
            'Set teacher.N.dtype = "fp32".',
        )


def remove_unfinished(file: Path) -> None:
    """Remove the temporary files that killed processes have left of a file."""
    for unfinished in file.parent.glob(f".{file.name}.*.tmp"):
        if abandoned(unfinished):
            unfinished.unlink(missing_ok=True)
