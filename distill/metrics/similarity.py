"""How alike two representations of the same samples are, whatever the numbers in each."""

from __future__ import annotations

import numpy as np

from distill.metrics.ranking import slices, top, wide

ROWS = 8192  # samples worked on at a time


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms of centred features.

    Kornblith et al., arXiv 1905.00414, section 3: 1 if one representation is a rotation of the other, scaled and
    shifted; 0 if no feature of one is correlated with one of the other. Computed from matrices of features, so that
    memory does not grow with n × n.

    Args:
        x: [n, a].
        y: [n, b], the same samples in the same order.

    Returns:
        A number in [0, 1]; NaN if one of the representations is the same for all samples. With few samples it is
        too large: for n much smaller than a and b it is close to 1 even for unrelated representations.

    Raises:
        ValueError: if the numbers of samples differ.
    """
    same_length(x, y)
    if constant(x) or constant(y):
        return float("nan")
    centres = [rows.mean(axis=0, dtype=np.float64) for rows in (x, y)]
    sums = [np.zeros((a.shape[1], b.shape[1])) for a, b in ((x, y), (x, x), (y, y))]
    for rows in slices(len(x), ROWS):
        first, second = x[rows] - centres[0], y[rows] - centres[1]
        for total, (a, b) in zip(sums, ((first, second), (first, first), (second, second)), strict=True):
            total += a.T @ b
    between, within_x, within_y = (float(np.linalg.norm(total)) for total in sums)
    return between**2 / (within_x * within_y)


class ResampledCKA:
    """:func:`linear_cka` of some of the rows of two spaces, by their numbers: fast for many choices of few rows.

    The products of all rows are computed once (n² numbers a space); those of a choice are among them.

    Args:
        x, y: [n, a] and [n, b], of the same samples.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        same_length(x, y)
        self.products = [rows.astype(np.float64) @ rows.T.astype(np.float64) for rows in (x, y)]

    def __call__(self, numbers: np.ndarray) -> float:
        """The CKA of the samples with these numbers, which may occur several times; NaN as for :func:`linear_cka`."""
        chosen = [centred(products[np.ix_(numbers, numbers)]) for products in self.products]
        norms = [float(np.linalg.norm(one)) for one in chosen]
        # What rounding leaves of rows that are all the same is no difference between them.
        if any(norm < 1e-9 * float(np.linalg.norm(all_)) for norm, all_ in zip(norms, self.products, strict=True)):
            return float("nan")
        return float((chosen[0] * chosen[1]).sum() / (norms[0] * norms[1]))


def centred(products: np.ndarray) -> np.ndarray:
    """The products [n, n] of rows after their mean has been subtracted."""
    means = products.mean(axis=0)
    return products - means - means[:, None] + means.mean()


def neighbour_overlap(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """For each sample the share of its k nearest neighbours in x that are among its k nearest neighbours in y.

    The mutual k-nearest-neighbour measure of Huh et al., "The Platonic Representation Hypothesis", arXiv 2405.07987,
    appendix A. Neighbours are those with the highest cosine similarity, without the sample itself; unrelated
    representations have k / (n − 1) in common.

    Args:
        x: [n, a].
        y: [n, b], the same samples in the same order.
        k: how many neighbours, less than n.

    Returns:
        [n] float64 in [0, 1]; NaN for a sample whose features are not finite.

    Raises:
        ValueError: if the numbers of samples differ, or there are not k neighbours.
    """
    same_length(x, y)
    if not 1 <= k < len(x):
        raise ValueError(f"{k} neighbours of each of {len(x)} samples: there must be at least 1, and fewer than these")
    both = np.sort(np.hstack([neighbours(x, k), neighbours(y, k)]), axis=1)
    shares = np.count_nonzero(both[:, 1:] == both[:, :-1], axis=1) / k
    shares[~(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1))] = np.nan
    return shares


def neighbours(rows: np.ndarray, k: int) -> np.ndarray:
    """[n, k] int64: the k other rows of [n, D] with the highest cosine similarity to each."""
    units = unit_rows(rows)
    found = top(units, units, k + 1)
    itself = found == np.arange(len(rows))[:, None]
    # More than k rows may be equal to a row, which is then not among them itself: the last one is left out instead.
    itself[:, -1] |= ~itself.any(axis=1)
    return found[~itself].reshape(len(rows), k)


def agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n] bool: whether two models predict the same class of a sample, right or wrong.

    Args:
        a: [n] the classes that one predicts, or [n, C] its scores of all classes, of which the highest one counts.
        b: the same of the other.

    Raises:
        ValueError: if the numbers of samples differ.
    """
    same_length(a, b)
    first, second = (x.argmax(axis=1) if x.ndim == 2 else x for x in (a, b))
    return first == second


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """[n, D] float32, or float64 if the rows are: each divided by its length; a row of zeros stays one."""
    rows = wide(rows)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)


def constant(rows: np.ndarray) -> bool:
    """Whether all rows are the same: their variance would be the error of rounding their mean."""
    return bool((rows == rows[:1]).all())


def same_length(x: np.ndarray, y: np.ndarray) -> None:
    """Raise ``ValueError`` if two arrays are not of the same number of samples."""
    if len(x) != len(y):
        raise ValueError(f"the arrays are of {len(x)} and {len(y)} samples")
