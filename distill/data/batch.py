"""Batches: what one training step sees, the same whatever the number of processes and loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from distill.data.cache import Cache
from distill.data.captions import Captions, Tokenizer
from distill.data.order import Order
from distill.data.shards import Shards
from distill.data.views import View, Views, decode
from distill.errors import UserError


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch.

    Attributes:
        images: [n, 3, S, S] uint8, the student's view; [n, 0] where no student looks at images.
        tokens: [n, context] int64.
        teachers: one a teacher: cached embeddings [n, P] float32, or the same view as the student's, at the
            teacher's own resolution, [n, 3, s, s] uint8.
        keys: n sample keys.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    teachers: tuple[torch.Tensor, ...]
    keys: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        def move(x: torch.Tensor) -> torch.Tensor:
            return x.to(device, non_blocking=True)

        return Batch(move(self.images), move(self.tokens), tuple(map(move, self.teachers)), self.keys)

    def pin_memory(self) -> Batch:
        teachers = tuple(t.pin_memory() for t in self.teachers)
        return Batch(self.images.pin_memory(), self.tokens.pin_memory(), teachers, self.keys)


class TeacherInput(Protocol):
    """Where a teacher's part of a batch comes from."""

    views: int | None
    needs_image: bool

    def take(self, shards: Shards, i: int, number: int, view: View, image: Image.Image | None) -> torch.Tensor:
        """Sample i's entry of ``Batch.teachers`` for the given view."""


class FromCache:
    """Rows of a teacher cache."""

    needs_image = False

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.views: int | None = cache.table.views

    def take(self, shards: Shards, i: int, number: int, view: View, image: Image.Image | None) -> torch.Tensor:
        return self.cache.row(shards, i, number)


class FromPixels:
    """The student's view at the teacher's own resolution, for a teacher that runs while training."""

    needs_image = True
    views: int | None = None

    def __init__(self, side: int, interpolation: str) -> None:
        self.side, self.interpolation = side, interpolation

    def take(self, shards: Shards, i: int, number: int, view: View, image: Image.Image | None) -> torch.Tensor:
        assert image is not None
        return view.render(image, self.side, self.interpolation)


class Pairs(Dataset[Batch]):
    """Image–caption pairs, by (epoch, sample number), as ready batches.

    Args:
        shards: where the samples are.
        captions: which caption an epoch shows.
        tokenizer: turns it into tokens.
        views: how augmented views are drawn.
        side: side of the student's images; 0 when no student looks at images.
        teachers: one :class:`TeacherInput` a teacher.
        seed: of the run.
    """

    def __init__(
        self,
        shards: Shards,
        captions: Captions,
        tokenizer: Tokenizer,
        views: Views,
        side: int,
        teachers: Sequence[TeacherInput],
        seed: int,
    ) -> None:
        self.shards, self.captions, self.tokenizer = shards, captions, tokenizer
        self.views, self.side, self.teachers, self.seed = views, side, tuple(teachers), seed
        self.cached_views = min((t.views for t in teachers if t.views is not None), default=None)
        self.needs_image = side > 0 or any(t.needs_image for t in teachers)

    def view_number(self, epoch: int, i: int) -> int:
        """Which view of sample i an epoch shows: the cached ones in turn, or a new one each epoch.

        Of the cached ones 0 is the plain image; an endless supply starts behind it, so that a run of a single
        epoch is augmented too.
        """
        return epoch + 1 if self.cached_views is None else (epoch + i) % self.cached_views

    def __getitems__(self, places: list[tuple[int, int]]) -> Batch | UserError:
        try:
            rows = [self._pair(epoch, i) for epoch, i in places]
        except UserError as error:  # raised in the main process: a loader process would wrap it in its traceback
            return error
        images, texts, teachers, keys = zip(*rows, strict=True)
        return Batch(
            images=torch.stack(images),
            tokens=self.tokenizer.encode(texts),
            teachers=tuple(torch.stack(column) for column in zip(*teachers, strict=True)),
            keys=keys,
        )

    def _pair(self, epoch: int, i: int) -> tuple[torch.Tensor, str, tuple[torch.Tensor, ...], str]:
        wanted = ["image", "txt", "json"] if self.needs_image else ["txt", "json"]
        sample = self.shards.read(i, wanted)
        caption = self.captions.draw(self.captions.of(sample), sample.key, self.seed, epoch)
        number = self.view_number(epoch, i)
        image = decode(sample) if self.needs_image else None
        view = self.views.draw(sample.key, number, image.size if image else (1, 1))
        pixels = view.render(image, self.side) if image and self.side else torch.empty(0, dtype=torch.uint8)
        teachers = tuple(t.take(self.shards, i, number, view, image) for t in self.teachers)
        return pixels, caption.text, teachers, sample.key


class Schedule(Sampler[list[tuple[int, int]]]):
    """The (epoch, sample) places of each of this process's batches, from step ``start`` up to ``stop``.

    Step s covers positions [s·B, (s+1)·B) of the stream; process r of R takes the r-th of R equal parts.
    """

    def __init__(self, order: Order, batch_size: int, rank: int, world: int, start: int, stop: int) -> None:
        self.order, self.batch_size, self.share = order, batch_size, batch_size // world
        self.offset, self.start, self.stop = rank * self.share, start, stop

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size + self.offset
            yield list(self.order.take(first, first + self.share))

    def __len__(self) -> int:
        return self.stop - self.start


def batches(pairs: Pairs, schedule: Schedule, workers: int, pin: bool) -> Iterator[Batch]:
    """Every batch of a schedule, loaded ahead by ``workers`` processes.

    Raises:
        UserError: at the first sample that cannot be read.
    """
    loader = DataLoader(
        pairs,
        batch_sampler=schedule,
        num_workers=workers,
        collate_fn=_whole,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _whole(batch: Any) -> Any:
    """``Pairs`` hands out whole batches already."""
    return batch
