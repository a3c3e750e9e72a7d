"""From samples to batches, wherever the samples come from: captions and views drawn, rendered, put together."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.data import default_collate

from distill.data.batch import Batch
from distill.data.captions import Captions
from distill.data.keyed_random import uniform
from distill.data.shards import Sample
from distill.data.teacher_inputs import ShownSample, TeacherInput
from distill.data.views import Views, decode
from distill.errors import Bad
from students import Tokenizer

MEMBERS = {"image": ("image",), "text": ("txt", "json")}  # of a sample in a shard, by the modality they hold


@dataclass(frozen=True)
class Drawing:
    """How an epoch shows a sample.

    Attributes:
        captions: which captions an epoch shows.
        count: how many of them at once.
        views: how augmented views are drawn.
        side: side of the student's images, in pixels; 0 when no student looks at images.
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


class ShownPair(NamedTuple):
    """One sample of a batch, as an epoch shows it.

    Attributes:
        image: [3, S, S] uint8, the student's view; None when no student looks at images.
        captions: C of them; none when nothing reads captions.
        teachers: every teacher's part.
        key: the sample's.
        epoch: that shows it.
        mark: a number for what is shown, whose sums over a batch do not depend on how it is split among processes.
    """

    image: torch.Tensor | None
    captions: list[str]
    teachers: tuple[Mapping[str, torch.Tensor], ...]
    key: str
    epoch: int
    mark: int


class Transform:
    """Makes shown pairs of samples, and batches of them.

    Args:
        tokenizer: of the text student; None where there is no text student.
        teachers: one :class:`~distill.data.teacher_inputs.TeacherInput` a teacher.
        drawing: how captions and views are drawn.
    """

    def __init__(self, tokenizer: Tokenizer | None, teachers: Sequence[TeacherInput], drawing: Drawing) -> None:
        self.tokenizer, self.teachers, self.drawing = tokenizer, tuple(teachers), drawing
        self.cached_views = min((t.views for t in teachers if t.views is not None), default=None)
        reads = {modality for teacher in teachers for modality in teacher.reads}
        reads |= {"image"} if drawing.side else set()
        reads |= {"text"} if tokenizer is not None else set()
        self.reads = frozenset(reads)
        self.kinds = tuple(member for modality, members in MEMBERS.items() if modality in reads for member in members)

    def view_number(self, epoch: int, i: int) -> int:
        """Which view of sample i an epoch shows: the cached ones in turn, or a new one each epoch.

        Of the cached ones 0 is the plain image; an endless supply starts behind it, so that a run of a single
        epoch is augmented too.
        """
        return epoch + 1 if self.cached_views is None else (epoch + i) % self.cached_views

    def pair(self, sample: Sample, epoch: int, i: int) -> ShownPair:
        """What an epoch shows of a sample.

        Args:
            i: its number; where teachers have caches, that of their rows.

        Raises:
            BadSample: if it cannot be used.
        """
        drawing, captions = self.drawing, list[str]()
        if "text" in self.reads:
            own = drawing.captions.read(sample)
            captions = [c.text for c in drawing.captions.draw(own, sample.key, drawing.seed, epoch, drawing.count)]
        number = self.view_number(epoch, i)
        image = decode(sample) if "image" in self.reads else None
        view = drawing.views.draw(sample.key, number, image.size if image else (1, 1))
        pixels = view.render(image, drawing.side, drawing.interpolation) if image and drawing.side else None
        shown = ShownSample(i, number, view, image, captions)
        teachers = tuple(teacher.take(shown) for teacher in self.teachers)
        mark = zlib.crc32(f"{epoch} {i} {sample.key}".encode())
        return ShownPair(pixels, captions, teachers, sample.key, epoch, mark)

    def collate(self, pairs: list[ShownPair], bad: Sequence[Bad]) -> Batch:
        """The batch of some pairs; where images are mixed, of all but the last, which is a neighbour only."""
        inputs: dict[str, torch.Tensor] = {}
        if self.drawing.mixup:
            inputs["mixed"], pairs = self._mixed(pairs)
        if self.drawing.side:
            inputs["image"] = default_collate([pair.image for pair in pairs])  # straight into shared memory
        if self.tokenizer is not None:
            texts = [caption for pair in pairs for caption in pair.captions]
            inputs["text"] = self.tokenizer.encode(texts).view(len(pairs), self.drawing.count, -1)
        return Batch(
            inputs=inputs,
            teachers=tuple(stacked([pair.teachers[k] for pair in pairs]) for k in range(len(self.teachers))),
            keys=tuple(pair.key for pair in pairs),
            bad=tuple(bad),
            sum=sum(pair.mark for pair in pairs),
        )

    def _mixed(self, pairs: list[ShownPair]) -> tuple[torch.Tensor, list[ShownPair]]:
        """Every image with its neighbour mixed in, and the pairs with their teachers' pixels mixed alike."""
        mixed, kept = [], []
        for own, neighbour in zip(pairs, pairs[1:], strict=False):
            assert own.image is not None and neighbour.image is not None
            share = self.drawing.mixup * uniform(f"mixup {self.drawing.seed} {own.epoch} {own.key}", 1)[0]
            mixed.append(mix(own.image, neighbour.image, share))
            parts = zip(own.teachers, neighbour.teachers, strict=True)
            kept.append(own._replace(teachers=tuple(mixed_images(a, b, share) for a, b in parts)))
        return torch.stack(mixed), kept


def stacked(rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """[n, …] of n samples' entries, by name."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def mixed_images(
    own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """A teacher's part of a sample; if it is an image, mixed with the neighbour's."""
    return {name: mix(value, other[name], share) if name == "image" else value for name, value in own.items()}


def mix(own: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """uint8 pixels of which ``share`` is the other's."""
    return torch.lerp(own.float(), other.float(), share).round().to(torch.uint8)
