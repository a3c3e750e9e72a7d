"""Embedding views of images for teacher caches: each image is decoded once for all teachers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import Dataset, default_collate

from distill.data.loading import prefetch
from distill.data.shard_rows import begin, check_finite
from distill.data.shards import Shards
from distill.data.view_cache import ViewCache
from distill.data.views import Views, decode
from distill.errors import BadSample, UserError

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


def embed_views(
    caches: Sequence[ViewCache],
    live: Sequence[Teacher],
    shards: Shards,
    workers: int,
    advance: Callable[[int], object],
) -> None:
    """Embed all views of the images of some shards; for the arguments see :func:`distill.data.cache_fill.embed`."""
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
            begin(caches, index, fingerprints)
            outputs, absent = _embed_shard(caches, live, len(index), batches, advance)
            for cache, by_name, weights in zip(caches, outputs, fingerprints, strict=True):
                for rows in by_name.values():
                    check_finite(cache, index.path, rows)
                cache.write(index, by_name, weights, absent)


def _embed_shard(
    caches: Sequence[ViewCache], live: Sequence[Teacher], size: int, batches: Batches, advance: Callable[[int], object]
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
