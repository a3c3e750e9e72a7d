"""Classifiers of embeddings that stay as they are: linear ones, nearest neighbours, and class vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.errors import UserError
from distill.metrics.ranking import slices, top_scores
from distill.metrics.similarity import unit_rows

L2 = 2.0**10  # of big_vision's few-shot evaluations, for features of variance 1
EPSILON = 1e-5  # added to standard deviations, as in big_vision: a constant feature has none
ROWS = 8192  # samples worked on at a time


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear classifier.

    Attributes:
        weights: [D, C] float64.
        bias: [C] float64; -inf for a class that had no training sample.
    """

    weights: np.ndarray
    bias: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """[n, C] float64, of features [n, D]: a larger one means a likelier class."""
        scores = np.empty((len(features), len(self.bias)))
        for rows in slices(len(features), ROWS):
            scores[rows] = features[rows] @ self.weights + self.bias
        return scores


def ridge(features: np.ndarray, labels: np.ndarray, classes: int, l2: float = L2) -> Linear:
    """Regression of one-hot labels in {-1, 1} on the features, with a penalty ``l2`` · ‖weights‖², in closed form.

    The few-shot classifier of Dosovitskiy et al. (arXiv 2010.11929, section 4.1) and Zhai et al. (LiT, arXiv
    2111.07991). Features are brought to mean 0 and variance 1 on the training samples first, as in big_vision's
    ``fewshot_lsr``. Its intercept is a constant feature of 100, nearly without a penalty; here it has none.

    Args:
        features: [n, D].
        labels: [n] integers below ``classes``.
        classes: how many classes there are, C.
        l2: above 0. The errors are summed, not averaged, so the penalty counts for less with more samples.

    Returns:
        A classifier of features as they are: the standardisation is part of its weights.

    Raises:
        ValueError: if there are no samples, or ``l2`` is not above 0.
    """
    if not len(features) or l2 <= 0:
        raise ValueError(f"{len(features)} samples and l2 = {l2}: both must be above 0")
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64) + EPSILON
    # With centred features and targets, the best intercept is 0; that of the targets is added at the end.
    share = np.bincount(labels, minlength=classes) / len(labels)
    samples, width = features.shape
    if samples >= width:
        gram, projected = np.zeros((width, width)), np.zeros((width, classes))
        for rows in slices(samples, ROWS):
            x = (features[rows] - mean) / deviation
            gram += x.T @ x
            projected += x.T @ targets(labels[rows], share)
        weights = np.linalg.solve(gram + l2 * np.eye(width), projected)
    else:  # the same weights, by a matrix of samples: (XᵀX + λ)⁻¹ Xᵀ = Xᵀ (XXᵀ + λ)⁻¹
        x = (features - mean) / deviation
        weights = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(samples), targets(labels, share))
    weights /= deviation[:, None]
    return Linear(weights, 2 * share - 1 - mean @ weights)


def targets(labels: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[n, C] one-hot labels in {-1, 1}, less their mean over all samples, given the share of each class [C]."""
    rows = np.tile(-2 * share, (len(labels), 1))
    rows[np.arange(len(labels)), labels] += 2
    return rows


def logistic(features: np.ndarray, labels: np.ndarray, classes: int, C: float = 1.0, iterations: int = 1000) -> Linear:
    """Multinomial logistic regression by L-BFGS: the linear probe of CLIP (arXiv 2103.00020, appendix A.3).

    Args:
        features: [n, D], used as they are.
        labels: [n] integers below ``classes``.
        classes: how many classes there are.
        C: the inverse of the penalty's strength: C · Σ losses + ‖weights‖² / 2 is minimised.
        iterations: at most so many; scikit-learn warns if they were not enough.

    Returns:
        A classifier whose scores are logits.

    Raises:
        UserError: if scikit-learn is not installed, or all samples are of one class.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError("Logistic regression needs scikit-learn.", "Run: pip install 'distill[evals]'") from error
    if len(np.unique(labels)) < 2:
        raise UserError("All training samples have the same class.", "Give samples of at least two classes.")
    model = LogisticRegression(C=C, max_iter=iterations).fit(features.astype(np.float64), labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # of two classes scikit-learn keeps the difference of the logits alone
        coefficients, intercepts = (np.concatenate([-x, x]) / 2 for x in (coefficients, intercepts))
    weights, bias = np.zeros((features.shape[1], classes)), np.full(classes, -np.inf)
    weights[:, model.classes_], bias[model.classes_] = coefficients.T, intercepts
    return Linear(weights, bias)


def nearest_neighbours(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    k: int,
    classes: int,
    temperature: float | None = 0.07,
) -> np.ndarray:
    """The votes of the k training samples that have the highest cosine similarity with a test sample.

    Args:
        train: [m, D].
        train_labels: [m] integers below ``classes``.
        test: [n, D].
        k: how many neighbours vote; all, if there are fewer training samples.
        classes: how many classes there are, C.
        temperature: a vote counts exp(similarity / temperature), as in DINO (arXiv 2104.14294; Wu et al., arXiv
            1805.01978, section 3.4); None gives each the same weight.

    Returns:
        [n, C] float64, each row divided by the weight of the nearest neighbour; NaN for features that are not finite.

    Raises:
        ValueError: if there is no training sample, or ``k`` is less than 1.
    """
    if not len(train):
        raise ValueError("there is no training sample")
    votes = np.zeros((len(test), classes))
    reference = unit_rows(train)
    for rows in slices(len(test), ROWS):
        numbers, similarities = top_scores(unit_rows(test[rows]), reference, k)
        if temperature is None:
            weights = np.ones(numbers.shape)
        else:
            # Divided by that of the nearest one: exp(1 / temperature) could be too large for a number.
            nearest = np.where(np.isfinite(similarities[:, :1]), similarities[:, :1], 0)
            weights = np.exp((similarities - nearest).astype(np.float64) / temperature)
        at = np.arange(rows.start, rows.stop)[:, None]
        np.add.at(votes, (at, train_labels[numbers]), weights)
    votes[~np.isfinite(test).all(axis=1)] = np.nan
    return votes


def few_shot_choice(labels: np.ndarray, shots: int, seed: int, names: Sequence[str] | None = None) -> np.ndarray:
    """The numbers of ``shots`` random samples of each class that occurs among the labels.

    With the same seed, the samples of fewer shots are among those of more.

    Args:
        labels: [n] integers.
        shots: how many samples a class.
        seed: decides which ones.
        names: the classes' names, for the message of an error.

    Returns:
        [classes · shots] int64, ascending.

    Raises:
        UserError: if a class has fewer samples.
    """
    chosen = []
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if len(members) < shots:
            name = repr(names[label]) if names is not None else str(label)
            raise UserError(
                f"The class {name} has {len(members)} training samples, and {shots} of each are asked for.",
                "Ask for fewer, or add samples.",
            )
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:shots])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def class_vectors(rows: np.ndarray, classes_of_rows: np.ndarray, classes: int) -> np.ndarray:
    """One vector a class: the mean of its texts' unit embeddings, of length 1 again.

    The ensemble of prompts in embedding space of CLIP (arXiv 2103.00020, section 3.1.4).

    Args:
        rows: [t, D] embeddings of texts, of any length.
        classes_of_rows: [t] integers below ``classes``: the class that each text is of.
        classes: how many classes there are, C.

    Returns:
        [C, D] unit rows, float32, or float64 if ``rows`` are.

    Raises:
        ValueError: if a class has no text.
    """
    counts = np.bincount(classes_of_rows, minlength=classes)
    if not counts.all():
        raise ValueError(f"class {int(np.argmin(counts))} has no text")
    units = unit_rows(rows)
    sums = np.zeros((classes, rows.shape[1]))
    np.add.at(sums, classes_of_rows, units)
    return unit_rows(sums / counts[:, None]).astype(units.dtype)
