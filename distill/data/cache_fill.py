"""Filling teacher caches: every image is decoded once, and every teacher whose cache lacks it computes its outputs."""

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
from distill.files import abandoned

if TYPE_CHECKING:
    from teachers import Teacher

BATCH = 64  # pictures a teacher forward: enough to keep any device busy, little enough for any memory


class PixelFormat(NamedTuple):
    """The pixels one encoder reads: so many views of an image, ``side`` pixels wide."""

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
        except UserError as error:  # raised in the main process: a loader process would wrap it in its traceback
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
        """For each list of samples, one tensor [n, views, 3, side, side] an entry of ``formats``; loaded ahead.

        Besides, what is wrong with those that cannot be used, by their row; their pixels are zero.

        Args:
            strict: raise at the first of those.

        Raises:
            UserError: if something cannot be read.
        """
        asked = {"batch_sampler": samples, "collate_fn": self._together}
        with closing(prefetch(self, workers, pin, **asked)) as loader:
            for batch, errors in loader:
                for error in errors.values():
                    if strict or not isinstance(error, BadSample):
                        raise error
                yield batch, errors

    def _together(
        self, items: list[list[torch.Tensor] | UserError]
    ) -> tuple[list[torch.Tensor], dict[int, UserError]]:
        errors = {row: item for row, item in enumerate(items) if isinstance(item, UserError)}
        blank = [torch.zeros(views, 3, side, side, dtype=torch.uint8) for views, side, _ in self.formats]
        parts = [blank if isinstance(item, UserError) else item for item in items]
        # Straight into memory that the processes share.
        return [default_collate(list(column)) for column in zip(*parts, strict=True)], errors


@dataclass(frozen=True)
class MissingShards:
    """What some caches lack.

    Attributes:
        shards: those that one of them lacks.
        lacking: for every shard, the numbers of the caches that lack it.
    """

    shards: Shards
    lacking: tuple[tuple[int, ...], ...]

    @classmethod
    def find(cls, caches: Sequence[Cache], shards: Shards) -> MissingShards:
        """Look at what is there.

        Raises:
            UserError: if a cache folder holds something else.
        """
        lacks = [{index.path for index in cache.missing(shards)} for cache in caches]
        paths = [shards.indexes.path(n) for n in range(len(shards.indexes))]
        numbers = [tuple(k for k, lack in enumerate(lacks) if path in lack) for path in paths]
        chosen = [n for n, some in enumerate(numbers) if some]
        return cls(shards.subset(chosen), tuple(numbers[n] for n in chosen))

    def __bool__(self) -> bool:
        return bool(self.lacking)

    def part(self, rank: int, world: int) -> MissingShards:
        """One process's share: every ``world``-th shard."""
        return MissingShards(self.shards.subset(range(rank, len(self.lacking), world)), self.lacking[rank::world])

    def images(self, cache: int) -> int:
        """How many images a cache lacks."""
        return sum(len(i) for i, some in zip(self.shards.indexes, self.lacking, strict=True) if cache in some)


def check_space(caches: Sequence[Cache], missing: MissingShards) -> None:
    """Raise ``UserError`` if a disk has no room for what will be written."""
    needs: dict[int, tuple[int, Path]] = {}
    for index, some in zip(missing.shards.indexes, missing.lacking, strict=True):
        for cache in (caches[k] for k in some):
            folder = cache.folder(index.path)
            while not folder.exists():
                folder = folder.parent
            before = needs.get(folder.stat().st_dev, (0, folder))[0]
            needs[folder.stat().st_dev] = before + cache.bytes_of(len(index)), folder
    for need, folder in needs.values():
        free = shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"The teacher cache takes {size(need)}, and {folder} has {size(free)} left.",
                'Name another folder as teacher.N.cache, lower teacher.N.views, or set teacher.N.cache = "none".',
            )


def describe_space(caches: Sequence[Cache], missing: MissingShards) -> str:
    """What will be written, in words."""
    return ", ".join(
        f"{cache.card.name} {size(cache.bytes_of(missing.images(k)))} "
        f"({missing.images(k)} images, {cache.table.views} views, {cache.width} × {cache.table.dtype})"
        for k, cache in enumerate(caches)
        if missing.images(k)
    )


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def embed(
    caches: Sequence[Cache],
    teacher_of: Callable[[int], Teacher],
    missing: MissingShards,
    workers: int,
    advance: Callable[[int], object],
) -> None:
    """Embed what is lacking. A shard's file appears when it is complete; what is there is never touched.

    An image that does not decode has no embedding, and the file says so.

    Args:
        caches: all of them.
        teacher_of: the loaded teacher of cache k, on the device it shall run on; asked for those that lack something.
        missing: what to do.
        workers: loader processes.
        advance: called with the number of images done since it was last called.

    Raises:
        UserError: at an embedding the dtype cannot hold, or a full disk.
    """
    for some in sorted(set(missing.lacking)):  # shards that lack the same go through one loader
        numbers = [n for n, lack in enumerate(missing.lacking) if lack == some]
        shards, lacking = missing.shards.subset(numbers), [caches[k] for k in some]
        _embed(lacking, [teacher_of(k) for k in some], shards, workers, advance)
        shards.close()


def _embed(
    caches: Sequence[Cache], live: Sequence[Teacher], shards: Shards, workers: int, advance: Callable[[int], object]
) -> None:
    formats = [PixelFormat(c.table.views, c.identity["image_size"], c.card.interpolation) for c in caches]
    per_batch = max(1, BATCH // max(some.views for some in formats))
    samples = [
        range(first, min(first + per_batch, int(stop)))
        for start, stop in zip(shards.starts, shards.starts[1:], strict=False)
        for first in range(int(start), int(stop), per_batch)
    ]
    prints, device = [teacher.fingerprint() for teacher in live], live[0].mean.device
    pixels = ViewPixels(shards, caches[0].views, formats)
    with closing(pixels.batches(samples, workers, pin=device.type == "cuda", strict=False)) as batches:
        for index in shards.indexes:
            for cache, weights in zip(caches, prints, strict=True):
                remove_torn(cache.file(index.path))
                cache.claim(index, weights)
            outputs, absent = _embed_shard(caches, live, len(index), batches, advance)
            for cache, found, weights in zip(caches, outputs, prints, strict=True):
                for rows in found.values():
                    check_finite(cache, index.path, rows)
                cache.write(index, found, weights, absent)


def _embed_shard(
    caches: Sequence[Cache], live: Sequence[Teacher], size: int, batches: Batches, advance: Callable[[int], object]
) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
    """For each cache its outputs by name, [views, size, …]; and the rows that have none, which are zero."""
    device = live[0].mean.device
    # On the device until the shard is done: fetching every batch would wait for the device each time.
    found = [
        {
            name: torch.zeros(cache.table.views, size, *shape, dtype=cache.dtype, device=device)
            for name, shape in cache.shapes.items()
        }
        for cache in caches
    ]
    absent: list[int] = []
    row = 0
    while row < size:
        batch, errors = next(batches)
        n = len(batch[0])
        absent += [row + bad for bad in errors]
        for cache, teacher, outputs, pixels in zip(caches, live, found, batch, strict=True):
            computed = teacher(pixels.flatten(0, 1).to(device, non_blocking=True))
            for name, rows in outputs.items():
                rows[:, row : row + n] = computed[name].unflatten(0, (n, cache.table.views)).transpose(0, 1)
        row += n
        advance(n)
    for outputs in found:
        for rows in outputs.values():
            rows[:, absent] = 0
    return [{name: rows.cpu() for name, rows in outputs.items()} for outputs in found], absent


def check_finite(cache: Cache, shard: Path, rows: torch.Tensor) -> None:
    """Raise ``UserError`` at rows that the cache's dtype cannot hold, or that hold NaN."""
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


def remove_torn(file: Path) -> None:
    """Remove what a process that was killed has left of a file."""
    for torn in file.parent.glob(f".{file.name}.*.tmp"):
        if abandoned(torn):
            torn.unlink(missing_ok=True)
