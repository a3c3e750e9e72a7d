"""Retrieval: how high each query's right candidates rank. Memory does not grow with queries × candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

RANKS = (1, 5, 10)
TIE = 1e-6  # float32 rounds the same product differently at a block's edge
TILE = 1024, 4096  # queries and candidates compared at a time: 16 MB of float32 scores


def recalls(queries: np.ndarray, candidates: np.ndarray, right: Sequence[Sequence[int]]) -> dict[int, float]:
    """Recall at 1, 5 and 10: the share of queries with a right candidate among the first k.

    Args:
        queries: [q, D] unit rows.
        candidates: [c, D] unit rows.
        right: for each query the numbers of the candidates that are right answers, at least one.

    Returns:
        {1: …, 5: …, 10: …} in [0, 1]. A wrong candidate that ties with the best right one ranks before it, so
        a collapsed model scores nothing instead of everything; so does one that gives NaN.
    """
    return {
        k: int(hits.sum()) / max(1, len(hits)) for k, hits in recall_hits(queries, candidates, right, RANKS).items()
    }


def recall_hits(
    queries: np.ndarray, candidates: np.ndarray, right: Sequence[Sequence[int]], ks: Sequence[int] = RANKS
) -> dict[int, np.ndarray]:
    """For each k and query whether a right candidate is among the first k: [q] bool; :func:`recalls` are their means.

    Arguments and ties: as for :func:`recalls`.
    """
    found = ranks(queries, candidates, right)
    return {k: found <= k for k in ks}


def ranks(
    queries: np.ndarray,
    candidates: np.ndarray,
    right: Sequence[Sequence[int]],
    tile: tuple[int, int] = TILE,
) -> np.ndarray:
    """[q] int64: the rank of each query's best right candidate among the wrong ones, from 1.

    Their median is the median rank, and the mean of 1 / rank the mean reciprocal rank.

    Args:
        queries: [q, D] unit rows.
        candidates: [c, D] unit rows.
        right: for each query the numbers of the candidates that are right answers, at least one.
        tile: how many queries, and candidates, are compared at a time.

    Raises:
        ValueError: if a query has no right answer, or one that is not a candidate's number.
    """
    sizes = np.array([len(answers) for answers in right], dtype=np.int64)
    if len(sizes) != len(queries) or not sizes.all():
        raise ValueError("every query needs at least one right answer")
    numbers = np.array([number for answers in right for number in answers], dtype=np.int64)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(candidates):
        raise ValueError(f"a right answer is not among the numbers of the {len(candidates)} candidates")
    pairs = Pairs(np.repeat(np.arange(len(sizes)), sizes), numbers)
    found = np.ones(len(queries), dtype=np.int64)
    for rows in slices(len(queries), tile[0]):
        some, blocks = wide(queries[rows]), list(slices(len(candidates), tile[1]))
        best = np.full(len(some), -np.inf, dtype=type_of_scores(queries, candidates))
        for columns in blocks:
            if len((own := pairs.within(rows, columns))[0]):
                with np.errstate(invalid="ignore"):  # it warns of NaN, though it handles it as is needed here
                    np.maximum.at(best, own[0], (some @ wide(candidates[columns]).T)[own])
        # From here on a right answer has the score it had above: both come from the same product, rounded alike.
        for columns in blocks:
            # Not "score >= best": that is false for NaN, and a model that gives NaN would score everything.
            ahead = ~(some @ wide(candidates[columns]).T < (best - TIE)[:, None])
            ahead[pairs.within(rows, columns)] = False
            found[rows] += np.count_nonzero(ahead, axis=1)
    return found


class Pairs(NamedTuple):
    """Queries and their right answers: pair i is of ``query[i]`` and ``candidate[i]``; ``query`` ascends."""

    query: np.ndarray
    candidate: np.ndarray

    def within(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """The rows and columns of those pairs that lie in a tile, counted from the tile's first ones."""
        here = slice(*np.searchsorted(self.query, [rows.start, rows.stop]))
        query, candidate = self.query[here], self.candidate[here]
        inside = (candidate >= columns.start) & (candidate < columns.stop)
        return query[inside] - rows.start, candidate[inside] - columns.start


def top(queries: np.ndarray, candidates: np.ndarray, k: int, tile: tuple[int, int] = TILE) -> np.ndarray:
    """[q, k] int64: the k candidates with the largest scores, best first; all c if there are fewer than k.

    Args:
        queries: [q, D].
        candidates: [c, D].
        k: how many, at least 1.
        tile: how many queries, and candidates, are compared at a time.

    Returns:
        The candidates' numbers. Of equal scores the lower number is first; NaN counts as the smallest score.
    """
    return top_scores(queries, candidates, k, tile)[0]


def top_scores(
    queries: np.ndarray, candidates: np.ndarray, k: int, tile: tuple[int, int] = TILE
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that :func:`top` returns, and the scores of these candidates, both [q, k].

    Raises:
        ValueError: if ``k`` is less than 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    k = min(k, len(candidates))
    numbers = np.zeros((len(queries), k), dtype=np.int64)
    best = np.zeros((len(queries), k), dtype=type_of_scores(queries, candidates))
    for rows in slices(len(queries), tile[0]):
        some = wide(queries[rows])
        kept, values = np.zeros((len(some), 0), dtype=np.int64), np.zeros((len(some), 0), dtype=best.dtype)
        for columns in slices(len(candidates), tile[1]):
            scores = some @ wide(candidates[columns]).T
            scores[np.isnan(scores)] = -np.inf
            own = largest(scores, k)
            # What was kept comes first: its numbers are lower, and a stable sort leaves equal scores in their order.
            kept = np.hstack([kept, own + columns.start])
            values = np.hstack([values, np.take_along_axis(scores, own, axis=1)])
            order = np.argsort(-values, axis=1, kind="stable")[:, :k]
            kept, values = np.take_along_axis(kept, order, axis=1), np.take_along_axis(values, order, axis=1)
        numbers[rows], best[rows] = kept, values
    return numbers, best


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """[t, k] the columns of the k largest scores of [t, c], in ascending order; of equal scores the first ones."""
    columns = scores.shape[1]
    if k >= columns:
        return np.tile(np.arange(columns), (len(scores), 1))
    least = np.partition(scores, columns - k, axis=1)[:, columns - k, None]
    chosen, equal = scores > least, scores == least
    missing = k - np.count_nonzero(chosen, axis=1, keepdims=True)
    chosen |= equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= missing)
    return np.nonzero(chosen)[1].reshape(len(scores), k)


def slices(size: int, length: int) -> Iterator[slice]:
    """The numbers below ``size`` in slices of ``length``, the last of which may be shorter."""
    return (slice(start, min(start + length, size)) for start in range(0, size, length))


def wide(rows: np.ndarray) -> np.ndarray:
    """The rows as float64 if they are, and else as float32: NumPy has no fast product of any other type."""
    return rows.astype(np.float64 if rows.dtype == np.float64 else np.float32, copy=False)


def type_of_scores(queries: np.ndarray, candidates: np.ndarray) -> np.dtype:
    """The type of the products of :func:`wide` rows."""
    return np.result_type(wide(queries[:0]), wide(candidates[:0]))


def chance(candidates: int, right: Sequence[Sequence[int]]) -> dict[int, float]:
    """What :func:`recalls` expects of a random ranking: 1 − P(no right answer among the first k).

    Args:
        candidates: how many there are.
        right: as for :func:`recalls`.
    """
    expected = {}
    sizes = np.array([len(answers) for answers in right], dtype=np.float64)
    for k in RANKS:
        drawn = np.arange(min(k, candidates), dtype=np.float64)
        miss = np.maximum(0, candidates - sizes[:, None] - drawn) / (candidates - drawn)
        expected[k] = 1 - float(miss.prod(axis=1).mean())
    return expected
