"""The order in which training reads the samples, over all epochs.

Positions count samples from the beginning of training: with n samples, position p is in epoch p // n. The order
depends on the seed and the epoch, not on the number of processes, so any process can start at any position and a
resumed run needs only a counter. Its memory grows by two integers for every ``STRIPE`` samples.

Data is often stored class by class, so a batch must come from thousands of places. Yet reading single samples in
random order takes up to three times as long as reading them one after another. So each epoch cuts the samples into
runs of ``RUN`` neighbours, at other places each time, and shuffles all runs. About ``STRIPE`` runs are in use at a
time. A stripe of positions takes the next sample of each of them, in random order, and then an eighth of the runs is
finished and replaced. So hardly two samples of a batch are neighbours, which makes it as good as a batch of a full
shuffle; and when the first sample of a run is needed, the operating system is asked to read the whole run, which
:meth:`Order.ahead` names, at a steady rate throughout the epoch.

What is assumed: the machine's file cache holds ``RUN`` · ``STRIPE`` = 131,072 samples, 6.5 GB if they have 50 kB each;
with less memory, a part is read twice. Smaller data sets are shuffled as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distill.data.keyed_random import Permutation, shuffled, uniform

STRIPE = 16_384  # positions that take at most one sample of each run
RUN = 8  # neighbours read together: 400 kB if a sample has 50 kB
WINDOW = 16_384  # samples shuffled together by the order of earlier versions


class Piece(NamedTuple):
    """Consecutive positions of an epoch, whose samples are computed together.

    Attributes:
        epoch: the epoch.
        start: the first position, counted from the beginning of the epoch.
        samples: [n] int64, the sample numbers.
        ahead: [n] int64, see :meth:`Order.ahead`.
    """

    epoch: int
    start: int
    samples: np.ndarray
    ahead: np.ndarray


class Order:
    """The order of the samples in all epochs.

    Args:
        counts: [shards] int64, number of samples in each shard; there is at least one sample.
        seed: of the run.
        stripe: how many consecutive positions have at most one sample of each run.
        run: how many neighbours are read together.
    """

    def __init__(self, counts: np.ndarray, seed: int, stripe: int = STRIPE, run: int = RUN) -> None:
        self.seed, self.samples = seed, int(counts.sum())
        # Groups of runs are begun one after another. Few samples have shorter runs: a group must have ended before the
        # epoch, which is a circle, comes to it again.
        groups = max(1, self.samples // stripe)
        self.length = min(run, groups)
        self.runs = self.samples // self.length
        self._group_ends = np.arange(groups + 1, dtype=np.int64) * self.runs // groups
        sizes = np.diff(self._group_ends)
        self._ends = np.cumsum(sum(np.roll(sizes, age) for age in range(self.length)))
        self._ends[-1] = self.samples  # with the samples that are left over, fewer than a run
        self._recent: list[Piece] = []

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, sample number) at a position."""
        piece, offset = self._find(position)
        return piece.epoch, int(piece.samples[offset])

    def ahead(self, start: int, stop: int) -> np.ndarray:
        """[n, 2] int64: what to read from disk before the samples at some positions, as (first sample, how many).

        They are all of a run where it begins, and none later, since they have been read by then. Of a run that the end
        of the epoch divides, the first part is read together, and the second, at the beginning, one by one.

        Args:
            start, stop: the first position, and the one after the last.
        """
        found = [np.empty((0, 2), dtype=np.int64)]
        while start < stop:
            piece, offset = self._find(start)
            here = slice(offset, offset + stop - start)
            first, counts = piece.samples[here], piece.ahead[here]
            start += len(counts)
            begun = counts > 0
            found.append(np.stack([first[begun], counts[begun]], axis=1))
        runs = np.concatenate(found)
        # The samples are a circle: what goes over its end is at its beginning.
        over = np.maximum(runs.sum(axis=1) - self.samples, 0)
        runs[:, 1] -= over
        rest = over[over > 0]
        return np.concatenate([runs, np.stack([np.zeros_like(rest), rest], axis=1)])

    def replacement(self, position: int, attempt: int, stride: int) -> int:
        """The number of the sample that is used where the one at ``position`` is bad.

        It is the sample ``attempt`` batches later in the same epoch, going on at its beginning after its end. So it is
        in another batch, unless the epoch has hardly more than one.

        Args:
            attempt: 1 for the first replacement, 2 for the one used if that is bad too, and so on.
            stride: samples a batch.
        """
        epoch, within = divmod(position, self.samples)
        # One position further after each time around the epoch, so that every sample is tried in the end.
        ahead = attempt * stride + attempt * stride // self.samples
        return self.at(epoch * self.samples + (within + ahead) % self.samples)[1]

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """(epoch, sample number) for every position from ``start`` up to but not including ``stop``."""
        while start < stop:
            piece, offset = self._find(start)
            here = piece.samples[offset : offset + stop - start].tolist()
            start += len(here)
            yield from ((piece.epoch, sample) for sample in here)

    def _find(self, position: int) -> tuple[Piece, int]:
        """The piece with a position, and the position in it; the last four pieces are kept."""
        epoch, within = divmod(position, self.samples)
        for piece in self._recent:
            if piece.epoch == epoch and 0 <= within - piece.start < len(piece.samples):
                return piece, within - piece.start
        piece = self._piece(epoch, within)
        self._recent = [piece, *self._recent[:3]]
        return piece, within - piece.start

    def _piece(self, epoch: int, within: int) -> Piece:
        """The stripe with a position of an epoch."""
        stripe, groups = int(np.searchsorted(self._ends, within, side="right")), len(self._ends)
        ends, name = self._group_ends, f"order {self.seed} {epoch}"
        # The group that begins with this stripe is at its runs' first samples, the one before at the second ones, …
        begun = [(stripe - age) % groups for age in range(self.length)]
        runs = np.concatenate([np.arange(ends[group], ends[group + 1]) for group in begun])
        ages = np.repeat(np.arange(self.length), [ends[group + 1] - ends[group] for group in begun])
        samples = Permutation(name, self.runs)(runs) * self.length + ages
        ahead = np.where(ages == 0, min(self.length, groups - stripe), ages > stripe)
        if stripe == groups - 1:
            rest = np.arange(self.runs * self.length, self.samples)
            samples, ahead = np.concatenate([samples, rest]), np.concatenate([ahead, np.ones_like(rest)])
        start = int(self._ends[stripe - 1]) if stripe else 0
        order = shuffled(f"{name} {stripe}", len(samples))
        # Runs begin elsewhere in each epoch, so that other samples are neighbours and others are left over.
        shift = int(uniform(name, 1)[0] * self.samples)
        return Piece(epoch, start, (samples[order] + shift) % self.samples, ahead[order])

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_recent": []}


class WindowOrder(Order):
    """The order of runs that distill 0.1 started: shuffled shards, and samples shuffled in windows of that sequence.

    Args:
        counts: [shards] int64, number of samples in each shard.
        seed: of the run.
        window: how many consecutive samples are shuffled together.
    """

    def __init__(self, counts: np.ndarray, seed: int, window: int = WINDOW) -> None:
        super().__init__(counts, seed)
        self.counts, self.window = counts, window
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def _piece(self, epoch: int, within: int) -> Piece:
        """The window with a position of an epoch."""
        window = within // self.window
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.counts))
        ends = np.cumsum(self.counts[order])
        positions = np.arange(window * self.window, min((window + 1) * self.window, self.samples))
        slot = np.searchsorted(ends, positions, side="right")
        shard = order[slot]
        samples = self.starts[shard] + positions - (ends[slot] - self.counts[shard])
        np.random.default_rng((self.seed, epoch, window)).shuffle(samples)
        return Piece(epoch, window * self.window, samples, np.ones_like(samples))


NEWEST = "2"
ORDERS: dict[str, type[Order]] = {"1": WindowOrder, "2": Order}  # by the version that a run's table of shards names
