"""Classification: hits, likelihood and calibration, each per sample where it can be, so that it can be resampled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.errors import UserError
from distill.metrics.ranking import TIE

TEMPERATURES = 1e-4, 1e4  # the range in which :func:`fit_temperature` looks
TILE = 2**22  # logits that are worked on at a time: 32 MB of float64


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int = 1, tie: float = TIE) -> np.ndarray:
    """Whether the right class is among the k with the largest logits.

    Args:
        logits: [n, C], or any scores of which a larger one means a likelier class.
        labels: [n] integers below C.
        k: how many classes count.
        tie: scores that differ by less are the same one. The default is for cosine similarities: equal ones may differ
            that much after rounding to float32.

    Returns:
        [n] bool. A wrong class that ties with the right one ranks before it, so a model that gives all classes the
        same score has no hits; nor has one that gives NaN.
    """
    hits = np.zeros(len(logits), dtype=bool)
    for rows in tiles(logits):
        some, right = logits[rows], labels[rows]
        own = np.take_along_axis(some, right[:, None], axis=1)
        ahead = ~(some < own - tie)  # not ">=": that is false for NaN
        np.put_along_axis(ahead, right[:, None], False, axis=1)
        hits[rows] = np.count_nonzero(ahead, axis=1) < k
    return hits


def per_class(hits: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples of each class, and the mean of their hits.

    Args:
        hits: [n] bool, or numbers.
        labels: [n] integers below ``classes``.
        classes: how many classes there are, C.

    Returns:
        counts [C] int64 and means [C] float64, NaN for a class without samples.
    """
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=hits, minlength=classes)
    return counts, np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def mean_per_class_recall(hits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the share of a class's samples that are hits; of those classes that have samples.

    Also called balanced accuracy. Arguments: as for :func:`per_class`. NaN without samples.
    """
    counts, means = per_class(hits, labels, 0)
    return float(means[counts > 0].mean()) if len(labels) else float("nan")


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[n, C] float64: the logarithm of the softmax of logits / temperature."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def negative_log_likelihoods(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[n] float64, in nats: minus the log probability [n, C] of each sample's label [n]."""
    return -np.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0].astype(np.float64)


def brier(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The squared distance of each sample's probabilities from its label as one-hot vector (Brier, 1950).

    Args:
        probs: [n, C], rows that add up to 1.
        labels: [n] integers below C.

    Returns:
        [n] float64 in [0, 2]: the sum over classes, not their mean.
    """
    scores = np.zeros(len(probs))
    for rows in tiles(probs):
        errors = probs[rows].astype(np.float64)
        errors[np.arange(len(errors)), labels[rows]] -= 1
        scores[rows] = np.square(errors).sum(axis=1)
    return scores


class Reliability(NamedTuple):
    """The bins of a reliability diagram, each [bins]: its limits, samples, their mean confidence and their accuracy.

    ``confidence`` and ``accuracy`` are NaN in a bin without samples.
    """

    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(confidences: np.ndarray, hits: np.ndarray, bins: int = 15) -> Reliability:
    """How often a model is right when it says how sure it is (Guo et al., arXiv 1706.04599, section 2).

    Args:
        confidences: [n] in [0, 1]: the probability of the class predicted.
        hits: [n] bool: whether that class is right.
        bins: how many there are, of equal width. A bin includes its lower limit, as in torchmetrics, and the last
            one also 1, as in the paper; torchmetrics gives samples of confidence 1 a bin of their own.

    Raises:
        ValueError: if a confidence is not in [0, 1].
    """
    edges, sure = np.linspace(0, 1, bins + 1), confidences.astype(np.float64)
    if not ((sure > -1e-6) & (sure < 1 + 1e-6)).all():  # float32 rounds a softmax to slightly more than 1
        raise ValueError("confidences must be in [0, 1]")
    places = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, bins - 1)
    counts, confidence = per_class(sure, places, bins)
    return Reliability(edges[:-1], edges[1:], counts, confidence, per_class(hits, places, bins)[1])


def expected_calibration_error(confidences: np.ndarray, hits: np.ndarray, bins: int = 15) -> float:
    """The mean distance of accuracy and confidence over the bins of :func:`reliability` (arXiv 1706.04599, eq. 3).

    Bins are weighted by their samples. In [0, 1]; NaN without samples, or if a confidence is NaN.
    """
    if np.isnan(confidences).any():
        return float("nan")
    found = reliability(confidences, hits, bins)
    filled = found.counts > 0
    if not filled.any():
        return float("nan")
    return float(np.average(np.abs(found.accuracy - found.confidence)[filled], weights=found.counts[filled]))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 for which softmax(logits / T) gives the labels the highest mean log likelihood.

    Temperature scaling (Guo et al., arXiv 1706.04599, section 4.2). Fit it on other samples than it is judged on.

    Args:
        logits: [n, C].
        labels: [n] integers below C.

    Returns:
        T in [1e-4, 1e4]; a limit, if the likelihood grows up to it (the smallest, if all samples are hits).

    Raises:
        UserError: if SciPy is not installed.
        ValueError: if there are no samples, or a logit is not finite.
    """
    try:
        from scipy.optimize import brentq
    except ImportError as error:
        raise UserError("Fitting a temperature needs SciPy.", "Run: pip install 'distill[evals]'") from error
    if not len(logits) or not np.isfinite(logits).all():
        raise ValueError("a temperature is fitted to finite logits of at least one sample")

    def slope(log_inverse: float) -> float:
        """The derivative of the mean negative log likelihood by 1 / T; it grows, as that function is convex."""
        total = 0.0
        for rows in tiles(logits):
            some, right = logits[rows].astype(np.float64), labels[rows]
            expected = (np.exp(log_probabilities(some, np.exp(-log_inverse))) * some).sum(axis=1)
            total += float((expected - np.take_along_axis(some, right[:, None], axis=1)[:, 0]).sum())
        return total / len(logits)

    low, high = (-float(np.log(limit)) for limit in reversed(TEMPERATURES))
    if slope(high) <= 0:
        return TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(-brentq(slope, low, high, xtol=1e-9)))


def tiles(rows: np.ndarray) -> list[slice]:
    """The rows of an array [n, C] in slices of at most ``TILE`` entries."""
    length = max(1, TILE // max(1, rows.shape[1]))
    return [slice(start, start + length) for start in range(0, len(rows), length)]
