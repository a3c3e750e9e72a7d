"""Metrics in NumPy: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RANKS = (1, 5, 10)
TIE = 1e-6  # float32 rounds the same product differently at a block's edge
CHUNK = 4096  # queries scored at a time, so that memory does not grow with queries × candidates


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
    hits = dict.fromkeys(RANKS, 0)
    for start in range(0, len(queries), CHUNK):
        scores = queries[start : start + CHUNK] @ candidates.T
        for row, answers in zip(scores, right[start : start + CHUNK], strict=True):
            own = row[np.asarray(answers)]
            # Not "row >= best": that is false for NaN, and a model that gives NaN would score everything.
            below = own.max() - TIE
            ahead = np.count_nonzero(~(row < below)) - np.count_nonzero(~(own < below))
            for k in RANKS:
                hits[k] += int(ahead < k)
    return {k: count / max(1, len(queries)) for k, count in hits.items()}


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
