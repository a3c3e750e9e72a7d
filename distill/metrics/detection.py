"""Detection of outliers: how well scores tell samples of known kinds (inliers) from others (outliers).

Inliers are the positive class and should have the higher scores (Hendrycks and Gimpel, arXiv 1610.02136). All results
are in [0, 1], and NaN if one of the sets is empty or a score is NaN.
"""

from __future__ import annotations

import numpy as np


def auroc(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> float:
    """The area under the ROC curve: how often a random inlier scores higher than a random outlier; a tie is a half.

    Args:
        inlier_scores: [n].
        outlier_scores: [m].
    """
    if undefined(inlier_scores, outlier_scores):
        return float("nan")
    ordered = np.sort(outlier_scores)
    below = np.searchsorted(ordered, inlier_scores, side="left").sum(dtype=np.float64)
    not_above = np.searchsorted(ordered, inlier_scores, side="right").sum(dtype=np.float64)
    return float((below + not_above) / 2 / len(inlier_scores) / len(outlier_scores))


def aupr(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> float:
    """The average precision of finding inliers by a high score: Σ (R_i − R_{i−1}) P_i over all thresholds i.

    R and P are recall and precision of the samples at or above a threshold; equal scores are one threshold.

    Args:
        inlier_scores: [n].
        outlier_scores: [m].
    """
    if undefined(inlier_scores, outlier_scores):
        return float("nan")
    found, wrong = counts(inlier_scores, outlier_scores)
    return float(np.sum(np.diff(found, prepend=0) / len(inlier_scores) * found / (found + wrong)))


def aupr_out(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> float:
    """As :func:`aupr`, but of finding outliers by a low score: outliers are the positive class."""
    return aupr(*(-np.asarray(scores, dtype=np.float64) for scores in (outlier_scores, inlier_scores)))


def fpr_at_95_tpr(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> float:
    """The share of outliers that are taken for inliers when at least 95 % of the inliers are recognised.

    The threshold is the highest score at or above which are 95 % of the inliers (Liang et al., arXiv 1706.02690).

    Args:
        inlier_scores: [n].
        outlier_scores: [m].
    """
    if undefined(inlier_scores, outlier_scores):
        return float("nan")
    found, wrong = counts(inlier_scores, outlier_scores)
    # In integers: 0.95 is not a number of binary floating point.
    enough = int(np.argmax(found * 100 >= len(inlier_scores) * 95))
    return float(wrong[enough] / len(outlier_scores))


def counts(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each different score, the highest first: the inliers, and the outliers, with at least this score."""
    scores = np.concatenate([inlier_scores, outlier_scores]).astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    ordered, inlier = scores[order], order < len(inlier_scores)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    found = np.cumsum(inlier)[last]
    return found, last + 1 - found


def undefined(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> bool:
    """Whether there is nothing to compare."""
    return any(not len(scores) or bool(np.isnan(scores).any()) for scores in (inlier_scores, outlier_scores))
