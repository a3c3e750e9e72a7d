"""From samples to batches, wherever the samples come from: captions and views drawn, rendered, put together."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.data import default_collate

from distill.data.batch import Batch
from distill.data.captions import Captions, Tokenizer
from distill.data.keyed_random import uniform
from distill.data.shards import Sample
from distill.data.teacher_inputs import Shown, TeacherInput
from distill.data.views import Views, decode
from distill.errors import Bad


@dataclass(frozen=True)
class Drawing:
    """What a sample looks like in an epoch.

    Attributes:
        captions: which captions an epoch shows.
        count: how many of them a time.
        views: how augmented views are drawn.
        side: side of the student's images; 0 when no student looks at images.
        interpolation: of the student's images.
        mixup: the largest share of a neighbour that is mixed in; 0 for none.
        seed: of the run.
    """

    captions: Captions
    views: Views
    side: int
    seed: int
    count: int = 1
    interpolation: str = "bicubic"
    mixup: float = 0.0


class Pair(NamedTuple):
    """One sample of a batch.

    Attributes:
        pixels: [3, S, S] uint8.
        captions: C of them.
        teachers: every teacher's part.
        key: the sample's.
        epoch: that shows it.
        mark: a number for what is shown, whose sums over a batch do not depend on how it is shared out.
    """

    pixels: torch.Tensor
    captions: list[str]
    teachers: tuple[torch.Tensor, ...]
    key: str
    epoch: int
    mark: int


class Transform:
    """Makes pairs of samples, and batches of pairs.

    Args:
        tokenizer: turns captions into tokens.
        teachers: one :class:`~distill.data.teacher_inputs.TeacherInput` a teacher.
        drawing: how captions and views are drawn.
    """

    def __init__(self, tokenizer: Tokenizer, teachers: Sequence[TeacherInput], drawing: Drawing) -> None:
        self.tokenizer, self.teachers, self.drawing = tokenizer, tuple(teachers), drawing
        self.cached_views = min((t.views for t in teachers if t.views is not None), default=None)
        self.needs_image = drawing.side > 0 or any(t.of_pixels for t in teachers)
        self.kinds = ("image", "txt", "json") if self.needs_image else ("txt", "json")

    def view_number(self, epoch: int, i: int) -> int:
        """Which view of sample i an epoch shows: the cached ones in turn, or a new one each epoch.

        Of the cached ones 0 is the plain image; an endless supply starts behind it, so that a run of a single
        epoch is augmented too.
        """
        return epoch + 1 if self.cached_views is None else (epoch + i) % self.cached_views

    def pair(self, sample: Sample, epoch: int, i: int) -> Pair:
        """What an epoch shows of a sample.

        Args:
            i: its number; where teachers have caches, that of their rows.

        Raises:
            BadSample: if it cannot be used.
        """
        drawing = self.drawing
        own = drawing.captions.of(sample)
        captions = [c.text for c in drawing.captions.draw(own, sample.key, drawing.seed, epoch, drawing.count)]
        number = self.view_number(epoch, i)
        image = decode(sample) if self.needs_image else None
        view = drawing.views.draw(sample.key, number, image.size if image else (1, 1))
        pixels = torch.empty(0, dtype=torch.uint8)
        if image and drawing.side:
            pixels = view.render(image, drawing.side, drawing.interpolation)
        shown = Shown(i, number, view, image, captions)
        teachers = tuple(teacher.take(shown) for teacher in self.teachers)
        return Pair(pixels, captions, teachers, sample.key, epoch, zlib.crc32(f"{epoch} {i} {sample.key}".encode()))

    def collate(self, pairs: list[Pair], bad: Sequence[Bad]) -> Batch:
        """The batch of some pairs; where images are mixed, of all but the last, which is a neighbour only."""
        mixed = None
        if self.drawing.mixup:
            mixed, pairs = self._mixed(pairs)
        texts = [caption for pair in pairs for caption in pair.captions]
        return Batch(
            images=default_collate([pair.pixels for pair in pairs]),  # at once into memory that is shared
            tokens=self.tokenizer.encode(texts).view(len(pairs), self.drawing.count, -1),
            teachers=tuple(torch.stack(column) for column in zip(*(pair.teachers for pair in pairs), strict=True)),
            keys=tuple(pair.key for pair in pairs),
            mixed=mixed,
            bad=tuple(bad),
            sum=sum(pair.mark for pair in pairs),
        )

    def _mixed(self, pairs: list[Pair]) -> tuple[torch.Tensor, list[Pair]]:
        """Every image with its neighbour mixed in, and the pairs with their teachers' pixels mixed alike."""
        mixed, kept = [], []
        for own, neighbour in zip(pairs, pairs[1:], strict=False):
            share = self.drawing.mixup * uniform(f"mixup {self.drawing.seed} {own.epoch} {own.key}", 1)[0]
            mixed.append(mix(own.pixels, neighbour.pixels, share))
            parts = zip(self.teachers, own.teachers, neighbour.teachers, strict=True)
            kept.append(own._replace(teachers=tuple(mix(a, b, share) if t.of_pixels else a for t, a, b in parts)))
        return torch.stack(mixed), kept


def mix(own: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """uint8 pixels of which ``share`` is the other's."""
    return torch.lerp(own.float(), other.float(), share).round().to(torch.uint8)
