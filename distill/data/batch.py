"""Batches: what one training step sees, the same whatever the number of processes and loaders."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from distill.data.captions import Captions, Tokenizer
from distill.data.chance import uniform
from distill.data.inputs import TeacherInput
from distill.data.order import Order
from distill.data.shards import Shards
from distill.data.views import Views, decode
from distill.errors import BadSample, UserError

ATTEMPTS = 1000  # samples that are tried in place of a bad one


class Bad(NamedTuple):
    """A sample that cannot be used; the key is "" for a shard, of which so many samples may be missing."""

    shard: str
    key: str
    reason: str
    missing: int = 0


class Place(NamedTuple):
    """A place in the stream: which epoch shows which sample there."""

    epoch: int
    sample: int
    position: int


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch, or a piece of it: n images with C captions each.

    Attributes:
        images: [n, 3, S, S] uint8, the student's view; [n, 0] where no student looks at images.
        tokens: [n, C, context] int64.
        teachers: one a teacher: embeddings [n, 1, P] float32, or what it makes them of: the same view as the
            student's at its own resolution, [n, 1, 3, s, s] uint8, or its own tokens, [n, C, context] int64.
        keys: n sample keys.
        mixed: [n, 3, S, S] uint8, each image mixed with its neighbour in the global batch, as are the pixels in
            ``teachers`` then; None where nothing is mixed.
        bad: samples that should have been in it and could not be used; others stand in for them.
        sum: a sum over the samples, by which two runs can be seen to have been shown the same.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    teachers: tuple[torch.Tensor, ...]
    keys: tuple[str, ...]
    mixed: torch.Tensor | None = None
    bad: tuple[Bad, ...] = ()
    sum: int = 0

    def to(self, device: torch.device) -> Batch:
        def move(x: torch.Tensor) -> torch.Tensor:
            return x.to(device, non_blocking=True)

        return self._each(move)

    def pin_memory(self) -> Batch:
        return self._each(torch.Tensor.pin_memory)

    def _each(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        mixed = None if self.mixed is None else move(self.mixed)
        teachers = tuple(move(teacher) for teacher in self.teachers)
        return replace(self, images=move(self.images), tokens=move(self.tokens), teachers=teachers, mixed=mixed)


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
    """One sample of a batch: pixels [3, S, S], C captions, every teacher's part, and the key."""

    pixels: torch.Tensor
    captions: list[str]
    teachers: tuple[torch.Tensor, ...]
    key: str


class Pairs(Dataset[Batch]):
    """Image–caption pairs, by (epoch, sample number), as ready batches.

    Args:
        shards: where the samples are.
        tokenizer: turns captions into tokens.
        teachers: one :class:`~distill.data.inputs.TeacherInput` a teacher.
        drawing: how captions and views are drawn.
        order: the order of the stream, from which a bad sample's place is filled.
        batch_size: of the whole batch.
    """

    def __init__(
        self,
        shards: Shards,
        tokenizer: Tokenizer,
        teachers: Sequence[TeacherInput],
        drawing: Drawing,
        order: Order,
        batch_size: int,
    ) -> None:
        self.order, self.batch_size = order, batch_size
        self.shards, self.tokenizer, self.teachers, self.drawing = shards, tokenizer, tuple(teachers), drawing
        self.cached_views = min((t.views for t in teachers if t.views is not None), default=None)
        self.needs_image = drawing.side > 0 or any(t.of_pixels for t in teachers)

    def view_number(self, epoch: int, i: int) -> int:
        """Which view of sample i an epoch shows: the cached ones in turn, or a new one each epoch.

        Of the cached ones 0 is the plain image; an endless supply starts behind it, so that a run of a single
        epoch is augmented too.
        """
        return epoch + 1 if self.cached_views is None else (epoch + i) % self.cached_views

    def __getitems__(self, places: list[Place]) -> Batch | UserError:
        """The batch of some places; where images are mixed, of all but the last, which is a neighbour only."""
        bad: list[Bad] = []
        try:
            found = [self._shown(place, bad) for place in places]
        except UserError as error:  # raised in the main process: a loader process would wrap it in its traceback
            return error
        mixed, places, pairs = None, [place for place, _ in found], [pair for _, pair in found]
        if self.drawing.mixup:
            mixed, pairs = self._mixed(places, pairs)
        texts = [caption for pair in pairs for caption in pair.captions]
        return Batch(
            images=torch.stack([pair.pixels for pair in pairs]),
            tokens=self.tokenizer.encode(texts).view(len(pairs), self.drawing.count, -1),
            teachers=tuple(torch.stack(column) for column in zip(*(pair.teachers for pair in pairs), strict=True)),
            keys=tuple(pair.key for pair in pairs),
            mixed=mixed,
            bad=tuple(bad),
            sum=sum(fingerprint(place, pair.key) for place, pair in zip(places, pairs, strict=False)),
        )

    def _shown(self, place: Place, bad: list[Bad]) -> tuple[Place, Pair]:
        """What is shown at a place: its sample, or the next that stands in for it, always the same."""
        for number in range(ATTEMPTS):
            if number:
                place = place._replace(sample=self.order.stand_in(place.position, number, self.batch_size))
            try:
                return place, self._pair(place.epoch, place.sample)
            except BadSample as error:
                bad.append(Bad(error.shard, error.key, error.reason))
                last = error
        raise last

    def _pair(self, epoch: int, i: int) -> Pair:
        drawing = self.drawing
        wanted = ["image", "txt", "json"] if self.needs_image else ["txt", "json"]
        sample = self.shards.read(i, wanted)
        own = drawing.captions.of(sample)
        captions = [c.text for c in drawing.captions.draw(own, sample.key, drawing.seed, epoch, drawing.count)]
        number = self.view_number(epoch, i)
        image = decode(sample) if self.needs_image else None
        view = drawing.views.draw(sample.key, number, image.size if image else (1, 1))
        pixels = torch.empty(0, dtype=torch.uint8)
        if image and drawing.side:
            pixels = view.render(image, drawing.side, drawing.interpolation)
        teachers = tuple(t.take(self.shards, i, number, view, image, captions) for t in self.teachers)
        return Pair(pixels, captions, teachers, sample.key)

    def _mixed(self, places: list[Place], pairs: list[Pair]) -> tuple[torch.Tensor, list[Pair]]:
        """Every image with its neighbour mixed in, and the pairs with their teachers' pixels mixed alike."""
        mixed, kept = [], []
        for place, own, neighbour in zip(places, pairs, pairs[1:], strict=False):
            share = self.drawing.mixup * uniform(f"mixup {self.drawing.seed} {place.epoch} {own.key}", 1)[0]
            mixed.append(mix(own.pixels, neighbour.pixels, share))
            parts = zip(self.teachers, own.teachers, neighbour.teachers, strict=True)
            kept.append(own._replace(teachers=tuple(mix(a, b, share) if t.of_pixels else a for t, a, b in parts)))
        return torch.stack(mixed), kept


def mix(own: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """uint8 pixels of which ``share`` is the other's."""
    return torch.lerp(own.float(), other.float(), share).round().to(torch.uint8)


def fingerprint(place: Place, key: str) -> int:
    """A number for what is shown, whose sums over a batch do not depend on how it is shared out."""
    return zlib.crc32(f"{place.epoch} {place.sample} {key}".encode())


class Schedule(Sampler[list[Place]]):
    """The places of each of this process's batches, from step ``start`` up to ``stop``.

    Step s covers positions [s·B, (s+1)·B) of the stream; process r of R takes the r-th of R equal parts, in so many
    pieces, and with ``neighbours`` the position after each piece too; the one after the batch's last is its first.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rank: int,
        world: int,
        start: int,
        stop: int,
        neighbours: bool = False,
        pieces: int = 1,
    ) -> None:
        self.order, self.batch_size, self.size, self.pieces = order, batch_size, batch_size // (world * pieces), pieces
        self.offset, self.start, self.stop, self.neighbours = rank * pieces * self.size, start, stop, neighbours

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size
            for piece in range(self.pieces):
                begin = self.offset + piece * self.size
                positions = list(range(first + begin, first + begin + self.size))
                if self.neighbours:
                    positions.append(first + (begin + self.size) % self.batch_size)
                yield [Place(*self.order.at(position), position) for position in positions]

    def __len__(self) -> int:
        return (self.stop - self.start) * self.pieces

    def keys(self, step: int, shards: Shards) -> Callable[[], list[str]]:
        """What gives the keys of all samples of a step, on all processes; they are looked up when it is called."""
        first = step * self.batch_size
        return lambda: [shards.key(i) for _, i in self.order.take(first, first + self.batch_size)]


def batches(pairs: Pairs, schedule: Schedule, workers: int, pin: bool) -> Iterator[list[Batch]]:
    """Every step's pieces of a schedule, loaded ahead by ``workers`` processes.

    Raises:
        UserError: if a place cannot be filled.
    """
    loader = DataLoader(
        pairs,
        batch_sampler=schedule,
        num_workers=workers,
        collate_fn=_whole,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_deaf,
    )
    share: list[Batch] = []
    for piece in loader:
        if isinstance(piece, UserError):
            raise piece
        share.append(piece)
        if len(share) == schedule.pieces:
            yield share
            share = []


def _deaf(number: int) -> None:
    """In a loader process: SIGTERM to a whole job is for the training process to heed, which ends its loaders."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _whole(batch: Any) -> Any:
    """``Pairs`` hands out whole batches already."""
    return batch
