"""The order in which an endless training stream visits the samples.

Position p of the stream is in epoch p // n. Within an epoch the shards are shuffled, then the samples inside
windows of that sequence, so reads stay near-sequential. Everything follows from (seed, epoch): not from the
number of processes or loaders, so any of them can start anywhere, and a resumed run needs only a counter.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WINDOW = 16_384  # samples shuffled together


class Order:
    """The order of all epochs.

    Args:
        counts: [shards] number of samples in each shard.
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
        """Position in the stream → (epoch, sample number)."""
        epoch, within = divmod(position, self.samples)
        window, offset = divmod(within, self.window)
        return epoch, int(self._window(epoch, window)[offset])

    def stand_in(self, position: int, number: int, stride: int) -> int:
        """The number of the sample that is shown in place of a bad one; ``number`` counts the attempts from 1.

        It is the one that is due so many batches of ``stride`` positions later, so it is not in the same batch, unless
        the epoch has hardly more than one.
        """
        epoch, within = divmod(position, self.samples)
        ahead = number * stride + number * stride // self.samples  # once around, one further: all are tried in the end
        return self.at(epoch * self.samples + (within + ahead) % self.samples)[1]

    def take(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """(epoch, sample number) for every position from ``start`` up to ``stop``."""
        return (self.at(position) for position in range(start, stop))

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """[≤ window] the sample numbers of one window, shuffled."""
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
        """[shards] their order in this epoch, and where in the epoch each ends."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.counts))
            self._shuffled = (epoch, order, np.cumsum(self.counts[order]))
        return self._shuffled[1], self._shuffled[2]
