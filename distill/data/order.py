"""The order in which training reads the samples, over all epochs.

Positions count samples from the beginning of training: with n samples, position p is in epoch p // n. In each epoch
the shards are shuffled, and then the samples inside windows of that sequence, so that reads stay nearly sequential.
The order depends on the seed and the epoch, not on the number of processes, so any process can start at any position
and a resumed run needs only a counter.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WINDOW = 16_384  # samples shuffled together


class Order:
    """The order of the samples in all epochs.

    Args:
        counts: [shards] int64, number of samples in each shard.
        seed: of the run.
        window: how many consecutive samples are shuffled together.
    """

    def __init__(self, counts: np.ndarray, seed: int, window: int = WINDOW) -> None:
        self.counts, self.seed, self.window = counts, seed, window
        self.starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self.samples = int(counts.sum())
        self._shuffled: tuple[int, np.ndarray, np.ndarray] | None = None
        self._windowed: tuple[tuple[int, int], np.ndarray] | None = None

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, sample number) at a position."""
        epoch, within = divmod(position, self.samples)
        window, offset = divmod(within, self.window)
        return epoch, int(self._window(epoch, window)[offset])

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
        return (self.at(position) for position in range(start, stop))

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """[at most window] int64: the sample numbers of one window of an epoch, shuffled."""
        if self._windowed is None or self._windowed[0] != (epoch, window):
            order, ends = self._shards(epoch)
            positions = np.arange(window * self.window, min((window + 1) * self.window, self.samples))
            slot = np.searchsorted(ends, positions, side="right")
            shard = order[slot]
            samples = self.starts[shard] + positions - (ends[slot] - self.counts[shard])
            np.random.default_rng((self.seed, epoch, window)).shuffle(samples)
            self._windowed = ((epoch, window), samples)
        return self._windowed[1]

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """[shards] int64, twice: the shards in the order of an epoch, and the position in it where each ends."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.counts))
            self._shuffled = (epoch, order, np.cumsum(self.counts[order]))
        return self._shuffled[1], self._shuffled[2]
