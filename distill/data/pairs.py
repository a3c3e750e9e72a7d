"""The pairs of addressable shards: which batch shows which, the same whatever the number of processes and loaders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import Dataset, Sampler

from distill.data.batch import Batch
from distill.data.order import Order
from distill.data.shards import Shards
from distill.data.transform import ShownPair, Transform
from distill.errors import Bad, BadSample, UserError

ATTEMPTS = 1000  # samples that are tried in place of a bad one


class Part(NamedTuple):
    """One process's part of a training.

    Attributes:
        rank, world: which process of how many.
        pieces: in which each of its batches comes.
        start, stop: the steps.
    """

    rank: int
    world: int
    pieces: int
    start: int
    stop: int


class Slot(NamedTuple):
    """One position in the order of all epochs: which epoch shows which sample there."""

    epoch: int
    sample: int
    position: int


class Pairs(Dataset[Batch]):
    """Image–caption pairs, by (epoch, sample number), as ready batches.

    Args:
        shards: where the samples are.
        transform: makes batches of them.
        order: the order of all epochs, from which a replacement for a bad sample is taken.
        batch_size: of the whole batch.
    """

    def __init__(self, shards: Shards, transform: Transform, order: Order, batch_size: int) -> None:
        self.shards, self.transform, self.order, self.batch_size = shards, transform, order, batch_size

    def __getitems__(self, slots: list[Slot]) -> Batch | UserError:
        """The batch of some slots; see :meth:`Transform.collate`."""
        bad: list[Bad] = []
        try:
            pairs = [self._shown(slot, bad) for slot in slots]
        except UserError as error:  # raised in the main process: a loader process would wrap it in its traceback
            return error
        return self.transform.collate(pairs, bad)

    def _shown(self, slot: Slot, bad: list[Bad]) -> ShownPair:
        """What is shown at a slot: its sample, or the first usable one of those tried in its place."""
        for number in range(ATTEMPTS):
            i = self.order.replacement(slot.position, number, self.batch_size) if number else slot.sample
            try:
                return self.transform.pair(self.shards.read(i, self.transform.kinds), slot.epoch, i)
            except BadSample as error:
                bad.append(error.bad)
                last = error
        raise last


class Schedule(Sampler[list[Slot]]):
    """The slots of each of this process's batches, from step ``start`` up to ``stop``.

    Step s covers positions [s·B, (s+1)·B) of the order; process r of R takes the r-th of R equal parts, in so many
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

    def __iter__(self) -> Iterator[list[Slot]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size
            for piece in range(self.pieces):
                begin = self.offset + piece * self.size
                positions = list(range(first + begin, first + begin + self.size))
                if self.neighbours:
                    positions.append(first + (begin + self.size) % self.batch_size)
                yield [Slot(*self.order.at(position), position) for position in positions]

    def __len__(self) -> int:
        return (self.stop - self.start) * self.pieces
