"""Confidence intervals of metrics by the bootstrap (Efron, "Bootstrap Methods: Another Look at the Jackknife")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 2**20  # random numbers drawn at a time: 8 MB


def mean(scores: np.ndarray) -> float:
    """The mean of [n] scores, NaN if there are none: the statistic whose intervals are computed fastest."""
    return float(np.mean(scores, dtype=np.float64)) if len(scores) else float("nan")


@dataclass(frozen=True, eq=False)
class Metric:
    """A number that was computed from samples, together with these samples, so that its error can be estimated.

    Attributes:
        statistic: computes the number from ``arrays``.
        arrays: each [n, …]; row i of all of them belongs to sample i.
        chance: the value of a model that guesses, if it is known.
        higher_is_better: whether a larger value is a better one.
        groups: [n] integers, or None. Samples with the same number depend on each other (captions of one image) and
            are resampled together: the cluster bootstrap (Davison and Hinkley, "Bootstrap Methods and their
            Application", 1997, section 3.8, strategy 1).
        independent: whether each array has samples of its own, which are resampled without regard to those of the
            other arrays. The arrays may then differ in length.
        rounds: the number of resamples of :meth:`interval`; fewer for a statistic that takes long.

    Raises:
        ValueError: if there is no array, the lengths differ, or ``groups`` are given for independent arrays.
    """

    statistic: Callable[..., float]
    arrays: tuple[np.ndarray, ...]
    chance: float | None = None
    higher_is_better: bool = True
    groups: np.ndarray | None = None
    independent: bool = False
    rounds: int = 1000

    def __post_init__(self) -> None:
        lengths = {len(array) for array in self.arrays}
        if not self.arrays:
            raise ValueError("a metric needs at least one array")
        if self.independent and self.groups is not None:
            raise ValueError("groups cannot be given for arrays that are independent of each other")
        if not self.independent and len(lengths) > 1:
            raise ValueError(f"the arrays have different lengths: {sorted(lengths)}")
        if self.groups is not None and {len(self.groups)} != lengths:
            raise ValueError(f"there are {len(self.groups)} groups for {lengths.pop()} samples")

    @property
    def value(self) -> float:
        """The statistic of all samples."""
        return float(self.statistic(*self.arrays))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of samples; of each array, if they are independent."""
        return tuple(len(array) for array in (self.arrays if self.independent else self.arrays[:1]))

    def interval(self, level: float = 0.95, rounds: int | None = None, seed: int = 0) -> tuple[float, float]:
        """The percentile bootstrap interval: quantiles of the statistic over random resamples.

        Args:
            level: the share of experiments in which the interval is to contain the true value.
            rounds: the number of resamples; None for ``self.rounds``.
            seed: decides which resamples are drawn: the same seed and number of samples give the same ones.

        Returns:
            (low, high); (nan, nan) if there are fewer than two samples, or groups, that could be exchanged.
            Resamples for which the statistic is NaN, because a class does not occur in them, say, are left out.
        """
        return quantiles(self.replicates(rounds or self.rounds, seed), level)

    def replicates(self, rounds: int, seed: int = 0) -> np.ndarray:
        """[rounds] float64: the statistic of each resample; all NaN if there are fewer than two samples or groups."""
        if min(self.sizes) < 2:
            return np.full(rounds, np.nan)
        if self.independent:
            return self._of_independent_arrays(rounds, seed)
        members = None if self.groups is None else Members(self.groups)
        units = len(self.arrays[0]) if members is None else members.count
        if units < 2:
            return np.full(rounds, np.nan)
        blocks = resamples(units, rounds, seed)
        if self.statistic is mean and self.arrays[0].ndim == 1:
            scores = self.arrays[0].astype(np.float64)
            if members is None:
                return np.concatenate([scores[block].mean(axis=1) for block in blocks])
            # The sums of a group are those of its samples: no resample has to be written out.
            sums = np.bincount(members.of_sample, scores, members.count)
            return np.concatenate([sums[b].sum(axis=1) / members.sizes[b].sum(axis=1) for b in blocks])
        chosen = (row if members is None else members.samples(row) for block in blocks for row in block)
        return np.array([self.statistic(*(array[rows] for array in self.arrays)) for rows in chosen], dtype=np.float64)

    def _of_independent_arrays(self, rounds: int, seed: int) -> np.ndarray:
        """See :meth:`replicates`."""
        # One stream of random numbers for each array: with a common one, arrays of equal length would be paired.
        streams = [
            (row for block in resamples(len(array), rounds, [seed, number]) for row in block)
            for number, array in enumerate(self.arrays)
        ]
        found = [
            self.statistic(*(array[rows] for array, rows in zip(self.arrays, chosen, strict=True)))
            for chosen in zip(*streams, strict=True)
        ]
        return np.array(found, dtype=np.float64)


class Members:
    """Which samples belong to which group.

    Args:
        groups: [n] integers: the group of each sample.

    Attributes:
        count: how many groups there are.
        of_sample: [n] the groups, renumbered from 0 to ``count`` - 1.
        sizes: [count] the number of samples of each group.
    """

    def __init__(self, groups: np.ndarray) -> None:
        _, self.of_sample, self.sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self.count = len(self.sizes)
        self._order = np.argsort(self.of_sample, kind="stable")
        self._starts = np.cumsum(self.sizes) - self.sizes

    def samples(self, chosen: np.ndarray) -> np.ndarray:
        """The samples of the groups ``chosen`` [m], one group after the other; repeated if a group is."""
        sizes = self.sizes[chosen]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self._order[np.repeat(self._starts[chosen], sizes) + within]


def mean_metric(
    scores: np.ndarray, chance: float | None = None, groups: np.ndarray | None = None, higher_is_better: bool = True
) -> Metric:
    """The mean of [n] scores, or of [n] bool (a share), as a :class:`Metric`."""
    return Metric(mean, (np.asarray(scores),), chance, higher_is_better, groups)


def paired_difference(
    a: Metric, b: Metric, level: float = 0.95, rounds: int | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """By how much ``a`` is larger than ``b``, which was measured on the same samples, in the same order.

    Both are computed from the same resamples, so that what makes samples easy or hard for both cancels out.

    Returns:
        (difference, low, high): the difference of the values and its percentile bootstrap interval.

    Raises:
        ValueError: if the numbers of samples, or the groups, differ.
    """
    if a.sizes != b.sizes:
        raise ValueError(f"the metrics are not of the same samples: there are {a.sizes} and {b.sizes}")
    if a.independent != b.independent or (a.groups is None) != (b.groups is None):
        raise ValueError("the metrics are not of the same samples: only one has groups, or independent arrays")
    if a.groups is not None and b.groups is not None and not np.array_equal(a.groups, b.groups):
        raise ValueError("the metrics are not of the same samples: their groups differ")
    rounds = rounds or min(a.rounds, b.rounds)
    low, high = quantiles(a.replicates(rounds, seed) - b.replicates(rounds, seed), level)
    return a.value - b.value, low, high


def resamples(size: int, rounds: int, seed: int | list[int]) -> Iterator[np.ndarray]:
    """``rounds`` rows of ``size`` numbers below ``size``, drawn with replacement, in blocks of bounded memory."""
    rng, rows = np.random.default_rng(seed), max(1, BLOCK // size)
    for start in range(0, rounds, rows):
        yield rng.integers(size, size=(min(rows, rounds - start), size))


def quantiles(replicates: np.ndarray, level: float) -> tuple[float, float]:
    """The interval between the quantiles (1 - level) / 2 and (1 + level) / 2; (nan, nan) of nothing but NaN.

    Raises:
        ValueError: if ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level is {level}; it must be between 0 and 1")
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
