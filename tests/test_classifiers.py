"""Classifiers of embeddings: against least squares, scikit-learn, and DINO's and CLIP's definitions."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier
from reference import unit_rows
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from distill.errors import UserError
from distill.metrics import classifiers


def clusters(samples: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, D] float32 around one centre a class, of different means and variances; labels [n]."""
    rng = np.random.default_rng(seed)
    centres, labels = rng.normal(size=(classes, width)), rng.integers(classes, size=samples)
    labels[:classes] = np.arange(classes)
    features = centres[labels] + 1.5 * rng.normal(size=(samples, width))
    return (features * rng.uniform(0.1, 5, width) + rng.normal(size=width)).astype(np.float32), labels


@pytest.mark.parametrize("samples, width", [(200, 12), (15, 12), (12, 12), (11, 12), (5, 12), (30, 200)])
@pytest.mark.parametrize("l2", [1e-3, 1.0, classifiers.L2])
def test_ridge_solves_the_least_squares_problem(samples: int, width: int, l2: float) -> None:
    """Against an ordinary least-squares solver: the penalty is √l2 · I as further rows, without the intercept's."""
    features, labels = clusters(samples, width, 4)
    model = classifiers.ridge(features, labels, 4, l2)
    deviation = features.std(axis=0, dtype=np.float64) + 1e-5
    x = (features - features.mean(axis=0, dtype=np.float64)) / deviation
    rows = np.block([[x, np.ones((samples, 1))], [np.sqrt(l2) * np.eye(width), np.zeros((width, 1))]])
    targets = np.vstack([2 * np.eye(4)[labels] - 1, np.zeros((width, 4))])
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(model.scores(features), x @ solution[:-1] + solution[-1], rtol=0, atol=1e-7)
    np.testing.assert_allclose(model.weights, solution[:-1] / deviation[:, None], rtol=0, atol=1e-7)


def test_ridge_equals_scikit_learn() -> None:
    features, labels = clusters(300, 20, 5)
    test, _ = clusters(50, 20, 5, seed=1)
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64) + 1e-5
    theirs = Ridge(alpha=30.0).fit((features - mean) / deviation, 2 * np.eye(5)[labels] - 1)
    ours = classifiers.ridge(features, labels, 5, 30.0).scores(test)
    np.testing.assert_allclose(ours, theirs.predict((test - mean) / deviation), rtol=0, atol=1e-7)
    accuracy = np.mean(classifiers.ridge(features, labels, 5, 30.0).scores(features).argmax(axis=1) == labels)
    assert accuracy > 0.8


@pytest.mark.parametrize("samples", [8, 60])
def test_ridge_predicts_what_a_large_constant_feature_for_the_intercept_does(samples: int) -> None:
    """With the same number of samples a class, as in few-shot evaluations, both intercepts give the same classes."""
    features, _ = clusters(samples, 20, 4)
    labels = np.arange(samples) % 4
    x = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-5)
    x = np.hstack([x, np.full((samples, 1), 100.0)]).astype(np.float64)
    weights = np.linalg.solve(x.T @ x + classifiers.L2 * np.eye(21), x.T @ (2 * np.eye(4)[labels] - 1))
    found = classifiers.ridge(features, labels, 4).scores(features)
    np.testing.assert_array_equal(found.argmax(axis=1), (x @ weights).argmax(axis=1))


def test_tiles_do_not_change_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(100, 10, 4)

    def results() -> list[np.ndarray]:
        return [
            classifiers.ridge(features, labels, 4).scores(features),
            classifiers.nearest_neighbours(features, labels, features, 7, 4),
        ]

    whole = results()
    monkeypatch.setattr(classifiers, "ROWS", 9)
    for one, other in zip(whole, results(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-9)


def test_features_that_are_all_the_same_change_nothing() -> None:
    features, labels = clusters(40, 6, 3)
    constant = np.hstack([features, np.full((40, 2), 7, dtype=np.float32)])
    expected = classifiers.ridge(features, labels, 3).scores(features)
    np.testing.assert_allclose(classifiers.ridge(constant, labels, 3).scores(constant), expected, atol=1e-9)


def test_ridge_needs_samples_and_a_penalty() -> None:
    features, labels = clusters(10, 3, 2)
    for l2, samples in ((0, 10), (-1, 10), (1, 0)):
        with pytest.raises(ValueError, match="must be above 0"):
            classifiers.ridge(features[:samples], labels[:samples], 2, l2)


def probabilities(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_logistic_regression_gives_the_probabilities_of_scikit_learn(classes: int) -> None:
    features, labels = clusters(150, 8, classes)
    theirs = LogisticRegression(C=0.3, max_iter=1000).fit(features.astype(np.float64), labels)
    ours = classifiers.logistic(features, labels, classes, C=0.3).scores(features)
    np.testing.assert_allclose(probabilities(ours), theirs.predict_proba(features.astype(np.float64)), atol=1e-6)
    assert np.mean(ours.argmax(axis=1) == labels) > 0.6


def test_classes_without_training_samples_are_never_predicted() -> None:
    features, labels = clusters(60, 5, 2)
    scores = classifiers.logistic(features, labels * 3 + 1, 6).scores(features)
    assert np.isneginf(scores[:, [0, 2, 3, 5]]).all()
    assert set(scores.argmax(axis=1)) == {1, 4}
    scores = classifiers.ridge(features, labels * 3 + 1, 6).scores(features)
    assert set(scores.argmax(axis=1)) == {1, 4}


def test_logistic_regression_of_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="All training samples have the same class. Give samples of at least two"):
        classifiers.logistic(np.zeros((4, 2)), np.ones(4, dtype=int), 3)


def test_without_scikit_learn_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)  # importing it is an ImportError now
    with pytest.raises(UserError, match=r"needs scikit-learn. Run: pip install 'distill\[evals\]'"):
        classifiers.logistic(*clusters(10, 3, 2), 2)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 0.001, None])
@pytest.mark.parametrize("k", [1, 10, 500])
def test_votes_of_neighbours_are_those_of_their_definition(k: int, temperature: float | None) -> None:
    """As in section 3.4 of arXiv 1805.01978, all neighbours of all samples at once."""
    train, labels = clusters(80, 6, 5)
    test, _ = clusters(30, 6, 5, seed=1)
    cosines = nn.functional.normalize(torch.from_numpy(test)) @ nn.functional.normalize(torch.from_numpy(train)).T
    values, numbers = cosines.double().topk(min(k, 80))
    weights = torch.ones_like(values) if temperature is None else ((values - values[:, :1]) / temperature).exp()
    expected = torch.zeros(30, 5, dtype=torch.float64).scatter_add_(1, torch.from_numpy(labels)[numbers], weights)
    found = classifiers.nearest_neighbours(train, labels, test, k, 5, temperature)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5 / (temperature or 1), atol=1e-9)


def test_majorities_of_neighbours_are_those_of_scikit_learn() -> None:
    """Of an odd number of neighbours of two classes, so that there are no ties."""
    train, labels = clusters(120, 4, 2)
    test, truth = clusters(60, 4, 2, seed=0)
    theirs = KNeighborsClassifier(7, metric="cosine").fit(train, labels)
    found = classifiers.nearest_neighbours(train, labels, test, 7, 2, temperature=None)
    np.testing.assert_allclose(found / 7, theirs.predict_proba(test), atol=1e-12)
    assert 0.6 < np.mean(found.argmax(axis=1) == truth)


@pytest.mark.parametrize("temperature", [0.07, None])
def test_features_that_are_not_finite_have_no_votes(temperature: float | None) -> None:
    train, labels = clusters(20, 4, 3)
    broken = train.copy()
    broken[2] = np.nan
    votes = classifiers.nearest_neighbours(train, labels, broken, 3, 3, temperature)
    assert np.flatnonzero(np.isnan(votes).any(axis=1)).tolist() == [2] and np.isnan(votes[2]).all()
    # A training sample that is not finite votes after all others.
    votes = classifiers.nearest_neighbours(broken, labels, train, 19, 3, temperature)
    others = np.delete(np.arange(20), 2)
    expected = classifiers.nearest_neighbours(train[others], labels[others], train, 19, 3, temperature)
    np.testing.assert_allclose(votes, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no training sample"):
        classifiers.nearest_neighbours(train[:0], labels[:0], train, 3, 3, temperature)


def test_a_few_shot_choice_has_the_same_number_of_each_class() -> None:
    labels = np.random.default_rng(1).choice([0, 2, 5], size=100, p=[0.6, 0.3, 0.1])
    chosen = {shots: classifiers.few_shot_choice(labels, shots, seed=3) for shots in (1, 4)}
    assert np.unique(labels[chosen[4]], return_counts=True)[1].tolist() == [4, 4, 4]
    assert len(set(chosen[4].tolist())) == 12
    assert set(chosen[1]) < set(chosen[4])
    np.testing.assert_array_equal(chosen[4], classifiers.few_shot_choice(labels, 4, seed=3))
    assert set(chosen[4]) != set(classifiers.few_shot_choice(labels, 4, seed=4))


def test_every_sample_is_chosen_equally_often() -> None:
    labels = np.array([0] * 5 + [1] * 10)
    counts = np.zeros(15)
    for seed in range(2000):
        counts[classifiers.few_shot_choice(labels, 2, seed)] += 1
    # Standard errors of the shares: √(0.4 · 0.6 / 2000) = 0.011 and √(0.2 · 0.8 / 2000) = 0.009.
    np.testing.assert_allclose(counts / 2000, [0.4] * 5 + [0.2] * 10, atol=0.045)


def test_a_class_with_too_few_samples_is_named() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    with pytest.raises(UserError, match="The class 2 has 1 training samples, and 3 of each are asked for"):
        classifiers.few_shot_choice(labels, 3, seed=0)
    with pytest.raises(UserError, match="The class 'okapi' has 1"):
        classifiers.few_shot_choice(labels, 3, seed=0, names=["dog", "cat", "okapi"])
    assert len(classifiers.few_shot_choice(labels[:0], 3, seed=0)) == 0


class Table(nn.Module):
    """A text encoder that returns rows of a table."""

    def __init__(self, rows: np.ndarray) -> None:
        super().__init__()
        self.rows = torch.from_numpy(rows)

    def encode_text(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.rows[numbers]


def numbered(classes: int, templates: int) -> Callable[[list[str]], torch.Tensor]:
    """A tokenizer of texts "template class", both numbers."""

    def tokenize(texts: list[str]) -> torch.Tensor:
        pairs = [[int(number) for number in text.split()] for text in texts]
        return torch.tensor([name * templates + template for template, name in pairs])

    return tokenize


@pytest.mark.parametrize("collapsed", [False, True])
def test_class_vectors_equal_those_of_clip_benchmark(collapsed: bool) -> None:
    rows = np.random.default_rng(2).normal(size=(6 * 4, 10)).astype(np.float32)
    if collapsed:
        rows[:] = rows[0]
    theirs = zero_shot_classifier(
        Table(rows), numbered(6, 4), [str(i) for i in range(6)], [f"{i} {{c}}" for i in range(4)], "cpu", amp=False
    )
    found = classifiers.class_vectors(rows, np.repeat(np.arange(6), 4), 6)
    np.testing.assert_allclose(found, theirs.numpy().T, rtol=0, atol=1e-6)
    shuffled = np.random.default_rng(3).permutation(24)
    again = classifiers.class_vectors(rows[shuffled], np.repeat(np.arange(6), 4)[shuffled], 6)
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-6)


def test_class_vectors_may_be_of_different_numbers_of_texts() -> None:
    rows = unit_rows(4, 5, 1)
    found = classifiers.class_vectors(3 * rows, np.array([1, 0, 1, 1]), 2)
    mean = rows[[0, 2, 3]].mean(axis=0)
    np.testing.assert_allclose(found, [rows[1], mean / np.linalg.norm(mean)], atol=1e-12)
    with pytest.raises(ValueError, match="class 2 has no text"):
        classifiers.class_vectors(rows, np.array([0, 1, 3, 3]), 4)
