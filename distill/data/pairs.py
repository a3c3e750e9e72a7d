"""The pairs of addressable shards: which batch shows which, the same whatever the number of processes and loaders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import Dataset, Sampler

from distill.data.batch import Batch
from distill.data.order import Order
from distill.data.shards import Shards
from distill.data.transform import Pair, Transform
from distill.errors import Bad, BadSample, UserError

ATTEMPTS = 1000  # samples that are tried in place of a bad one


class Place(NamedTuple):
    """A place in the order of all epochs: which epoch shows which sample there."""

    epoch: int
    sample: int
    position: int


class Pairs(Dataset[Batch]):
    """Image–caption pairs, by (epoch, sample number), as ready batches.

    Args:
        shards: where the samples are.
        transform: makes batches of them.
        order: the order of all epochs, from which a bad sample's place is filled.
        batch_size: of the whole batch.
    """

    def __init__(self, shards: Shards, transform: Transform, order: Order, batch_size: int) -> None:
        self.shards, self.transform, self.order, self.batch_size = shards, transform, order, batch_size

    def __getitems__(self, places: list[Place]) -> Batch | UserError:
        """The batch of some places; see :meth:`Transform.collate`."""
        bad: list[Bad] = []
        try:
            pairs = [self._shown(place, bad) for place in places]
        except UserError as error:  # raised in the main process: a loader process would wrap it in its traceback
            return error
        return self.transform.collate(pairs, bad)

    def _shown(self, place: Place, bad: list[Bad]) -> Pair:
        """What is shown at a place: its sample, or the next that stands in for it, always the same."""
        for number in range(ATTEMPTS):
            i = self.order.replacement(place.position, number, self.batch_size) if number else place.sample
            try:
                return self.transform.pair(self.shards.read(i, self.transform.kinds), place.epoch, i)
            except BadSample as error:
                bad.append(error.bad)
                last = error
        raise last


class Schedule(Sampler[list[Place]]):
    """The places of each of this process's batches, from step ``start`` up to ``stop``.

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
