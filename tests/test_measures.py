"""Classification, outlier detection and similarity, beside scikit-learn, torchmetrics and CLIP_benchmark."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import unit_rows
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from distill.metrics import classification, detection, similarity

CASES = ("random", "perfect", "wrong", "one class", "a class without samples")


def classified(case: str, samples: int = 200, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, C] without ties, and labels [n]."""
    rng = np.random.default_rng(seed)
    logits, labels = 2 * rng.normal(size=(samples, classes)), rng.integers(classes, size=samples)
    if case == "one class":
        labels[:] = 3
    if case == "a class without samples":
        labels[labels == 2] = 4
    if case in ("perfect", "wrong"):
        logits[np.arange(samples), labels] = 20 if case == "perfect" else -20
    else:
        logits[np.arange(samples), labels] += 1
    return logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # it is about our test data
@pytest.mark.parametrize("case", CASES)
def test_accuracies_equal_those_of_clip_benchmark(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It calls float() on an array of one number, which NumPy 2.4 refuses.
    monkeypatch.setattr(zeroshot_classification, "float", lambda one: one.item(), raising=False)
    logits, labels = classified(case)
    tensors = torch.from_numpy(logits), torch.from_numpy(labels)
    for k, expected in zip((1, 5), zeroshot_classification.accuracy(*tensors, topk=(1, 5)), strict=True):
        assert classification.top_k_hits(logits, labels, k).mean() == pytest.approx(expected, abs=1e-6)
    hits = classification.top_k_hits(logits, labels)
    expected = zeroshot_classification.balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert classification.mean_per_class_recall(hits, labels) == pytest.approx(expected, abs=1e-6)


def test_a_model_that_cannot_tell_classes_apart_has_no_hits() -> None:
    """Unlike CLIP_benchmark, which takes whichever of the tied classes comes first."""
    images, texts = unit_rows(50, 64, 1).astype(np.float32), np.tile(unit_rows(1, 64, 2), (10, 1)).astype(np.float32)
    labels = np.arange(50) % 10
    for logits in (images @ texts.T, np.zeros((50, 10)), np.full((50, 10), np.nan), np.full((50, 10), -np.inf)):
        assert not classification.top_k_hits(logits, labels, 9).any()
        assert classification.top_k_hits(logits, labels, 10).all()


def test_hits_of_ties_are_those_of_wrong_classes_ranked_first() -> None:
    logits = np.array([[1.0, 2.0, 2.0, 3.0]] * 4)
    found = {k: classification.top_k_hits(logits, np.arange(4), k).tolist() for k in (1, 2, 3, 4)}
    assert found == {1: [0, 0, 0, 1], 2: [0, 0, 0, 1], 3: [0, 1, 1, 1], 4: [1, 1, 1, 1]}


def test_tiles_do_not_change_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = classified("random")

    def results() -> list[np.ndarray | float]:
        return [
            classification.top_k_hits(logits, labels, 2),
            classification.brier(softmax(logits), labels),
            classification.fit_temperature(logits, labels),
            similarity.linear_cka(logits, logits[:, :3] ** 2),
        ]

    whole = results()
    monkeypatch.setattr(classification, "TILE", 100)
    monkeypatch.setattr(similarity, "ROWS", 33)
    for one, other in zip(whole, results(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=0)


def test_classes_without_samples_have_no_mean() -> None:
    counts, means = classification.per_class(np.array([True, False, True]), np.array([0, 0, 3]), 5)
    assert counts.tolist() == [2, 0, 0, 1, 0]
    np.testing.assert_array_equal(means, [0.5, np.nan, np.nan, 1.0, np.nan])
    assert np.isnan(classification.mean_per_class_recall(np.zeros(0, dtype=bool), np.zeros(0, dtype=int)))


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("case", CASES)
def test_likelihoods_equal_those_of_pytorch(case: str, temperature: float) -> None:
    logits, labels = classified(case)
    found = classification.negative_log_likelihoods(classification.log_probabilities(logits, temperature), labels)
    scaled = torch.from_numpy(logits) / temperature
    expected = torch.nn.functional.cross_entropy(scaled, torch.from_numpy(labels), reduction="none")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_brier_scores_equal_those_of_their_definition(case: str) -> None:
    logits, labels = classified(case)
    expected = np.square(softmax(logits) - np.eye(7)[labels]).sum(axis=1)
    np.testing.assert_allclose(classification.brier(softmax(logits), labels), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("case", CASES)
def test_calibration_errors_equal_those_of_torchmetrics(case: str, bins: int) -> None:
    logits, labels = classified(case, samples=1000)
    probs = softmax(logits)
    tensors = torch.from_numpy(probs), torch.from_numpy(labels)
    expected = multiclass_calibration_error(*tensors, num_classes=7, n_bins=bins, norm="l1").item()
    hits = classification.top_k_hits(logits, labels)
    assert probs.max() < 1
    found = classification.expected_calibration_error(probs.max(axis=1), hits, bins)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found > 1e-8


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60), st.sampled_from([1, 4, 5, 15]))
def test_calibration_errors_at_the_limits_of_bins(samples: list[tuple[int, bool]], bins: int) -> None:
    """Confidences are multiples of 1/20: many are the limit of a bin, and belong to the upper one, but for 1."""
    sure, hits = (np.array(column) for column in zip(*samples, strict=True))
    # In integers: confidence / 20 is in bin floor(confidence · bins / 20). Moved by less than the distance to the
    # next limit, but more than rounding, a confidence keeps its bin.
    place = np.minimum(sure * bins // 20, bins - 1)
    error = sum(abs(hits[place == b].mean() - sure[place == b].mean() / 20) * np.mean(place == b) for b in set(place))
    confidences = np.minimum(sure / 20 + 1e-9, 1)
    assert classification.expected_calibration_error(confidences, hits, bins) == pytest.approx(error, abs=1e-8)
    found = classification.reliability(confidences, hits, bins)
    np.testing.assert_array_equal(found.counts, np.bincount(place, minlength=bins))
    np.testing.assert_allclose(found.high - found.low, 1 / bins)
    np.testing.assert_array_equal(np.isnan(found.accuracy), found.counts == 0)


def test_confidences_that_are_none() -> None:
    hits = np.array([True, False])
    for wrong in (1.1, -0.1, np.nan):
        with pytest.raises(ValueError, match="confidences"):
            classification.reliability(np.array([0.5, wrong]), hits)
    assert np.isnan(classification.expected_calibration_error(np.array([0.5, np.nan]), hits))
    assert np.isnan(classification.expected_calibration_error(np.zeros(0), np.zeros(0, dtype=bool)))


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_the_temperature_fitted_is_the_one_that_made_the_labels(scale: float) -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(20000, 5))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from softmax(logits)
    found = classification.fit_temperature(scale * logits, labels)
    assert found == pytest.approx(scale, rel=0.03)

    def loss(temperature: float) -> float:
        log_probs = classification.log_probabilities(scale * logits, temperature)
        return float(classification.negative_log_likelihoods(log_probs, labels).mean())

    assert loss(found) < min(loss(found * 1.01), loss(found / 1.01))


def test_a_temperature_without_a_minimum_is_a_limit() -> None:
    logits, labels = classified("perfect")
    assert classification.fit_temperature(logits, labels) == 1e-4
    assert classification.fit_temperature(*classified("wrong")) == 1e4
    for refused in (logits[:0], np.full((200, 7), np.nan)):
        with pytest.raises(ValueError, match="at least one sample"):
            classification.fit_temperature(refused, labels[: len(refused)])


Measure = Callable[[np.ndarray, np.ndarray], float]


def sklearn_fpr(labels: np.ndarray, scores: np.ndarray) -> float:
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-3, 5), min_size=1, max_size=50),
    st.lists(st.integers(-5, 3), min_size=1, max_size=50),
)
def test_measures_of_detection_equal_those_of_scikit_learn(inliers: list[int], outliers: list[int]) -> None:
    """Integers from a small range: most scores are tied."""
    inside, outside = np.array(inliers), np.array(outliers)
    labels, scores = np.repeat([1, 0], [len(inside), len(outside)]), np.concatenate([inside, outside])
    for ours, expected in (
        (detection.auroc, roc_auc_score(labels, scores)),
        (detection.aupr, average_precision_score(labels, scores)),
        (detection.aupr_out, average_precision_score(1 - labels, -scores)),
        (detection.fpr_at_95_tpr, sklearn_fpr(labels, scores)),
    ):
        assert ours(inside, outside) == pytest.approx(expected, abs=1e-9), ours.__name__


def test_measures_of_detection_equal_those_of_scikit_learn_without_ties() -> None:
    rng = np.random.default_rng(5)
    inside, outside = rng.normal(1, 1, 1000).astype(np.float32), rng.normal(0, 1, 700).astype(np.float32)
    labels, scores = np.repeat([1, 0], [1000, 700]), np.concatenate([inside, outside])
    assert detection.auroc(inside, outside) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert detection.aupr(inside, outside) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert detection.fpr_at_95_tpr(inside, outside) == pytest.approx(sklearn_fpr(labels, scores), abs=1e-9)
    assert 0.5 < detection.auroc(inside, outside) < 1


@pytest.mark.parametrize("measure", [detection.auroc, detection.aupr, detection.aupr_out, detection.fpr_at_95_tpr])
def test_measures_of_detection_at_their_limits(measure: Measure) -> None:
    best, worst = (0, 1) if measure is detection.fpr_at_95_tpr else (1, 0)
    high, low = np.arange(10.0, 30.0), np.arange(0.0, 10.0)
    assert measure(high, low) == best
    assert measure(low, high) == pytest.approx(
        worst, abs=0.5 if measure in (detection.aupr, detection.aupr_out) else 0
    )
    for undefined in (np.zeros(0), np.array([1.0, np.nan])):
        assert np.isnan(measure(undefined, low)) and np.isnan(measure(high, undefined))


def cka_by_kernels(x: np.ndarray, y: np.ndarray) -> float:
    """Equations 1 to 4 of arXiv 1905.00414, with n × n kernels: HSIC(K, L) / √(HSIC(K, K) HSIC(L, L))."""
    centring = np.eye(len(x)) - 1 / len(x)
    k, m = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    return float(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)))


def test_cka_equals_that_of_kernels_and_ignores_rotation_scale_and_shift() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 20)).astype(np.float32)
    y = np.tanh(x[:, :8]) + 0.3 * rng.normal(size=(300, 8)) + 5
    found = similarity.linear_cka(x, y)
    assert found == pytest.approx(cka_by_kernels(x.astype(np.float64), y), abs=1e-9)
    assert 0.2 < found < 0.8
    rotation = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    assert similarity.linear_cka(x, 3 * x @ rotation - 7) == pytest.approx(1, abs=1e-9)
    assert similarity.linear_cka(y, x) == pytest.approx(found, abs=1e-12)
    assert similarity.linear_cka(rng.normal(size=(20000, 3)), rng.normal(size=(20000, 4))) < 0.001


def test_cka_of_chosen_samples_is_that_of_their_rows() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 7)).astype(np.float32), rng.normal(size=(60, 12))
    y[:, :3] += x[:, :3]
    cka = similarity.ResampledCKA(x, y)
    for numbers in (np.arange(60), rng.integers(60, size=60), np.arange(5)):
        assert cka(numbers) == pytest.approx(similarity.linear_cka(x[numbers], y[numbers]), abs=1e-6)
    assert np.isnan(cka(np.full(9, 3))) and np.isnan(similarity.ResampledCKA(np.ones((9, 3)), y[:9])(np.arange(9)))


def test_cka_of_a_collapsed_representation_is_undefined() -> None:
    x = unit_rows(30, 5, 7)
    for same in (np.tile(unit_rows(1, 9, 8), (30, 1)), np.zeros((30, 9))):
        assert np.isnan(similarity.linear_cka(x, same)) and np.isnan(similarity.linear_cka(same, x))
    assert np.isnan(similarity.linear_cka(x[:0], x[:0]))


@pytest.mark.parametrize("k", [1, 4, 24])
def test_the_overlap_of_neighbours_equals_that_of_sets(k: int) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(25, 6))
    y = x[:, :4] + 0.5 * rng.normal(size=(25, 4))

    def sets(rows: np.ndarray) -> list[set[int]]:
        cosines = np.corrcoef(np.hstack([rows, -rows]))  # of rows whose mean is 0, correlation is the cosine
        np.fill_diagonal(cosines, -2)
        return [set(np.argsort(-row)[:k].tolist()) for row in cosines]

    expected = [len(a & b) / k for a, b in zip(sets(x), sets(y), strict=True)]
    np.testing.assert_allclose(similarity.neighbour_overlap(x, y, k), expected, atol=1e-12)
    assert similarity.neighbour_overlap(x, 2 * x, k).tolist() == [1.0] * 25


def test_a_sample_is_not_its_own_neighbour_even_among_equal_ones() -> None:
    same = np.ones((6, 3), dtype=np.float32)
    for k in (1, 2, 5):
        found = similarity.neighbours(same, k)
        assert not (found == np.arange(6)[:, None]).any()
        assert all(len(set(row)) == k for row in found.tolist())


def test_unrelated_representations_have_neighbours_in_common_by_chance() -> None:
    found = similarity.neighbour_overlap(unit_rows(400, 6, 9), unit_rows(400, 6, 10), 40)
    assert found.mean() == pytest.approx(40 / 399, abs=0.01)


def test_samples_without_finite_features_have_no_overlap() -> None:
    x = unit_rows(10, 4, 11)
    broken = x.copy()
    broken[3, 1] = np.nan
    for pair in ((x, broken), (broken, x)):
        found = similarity.neighbour_overlap(*pair, 2)
        assert np.flatnonzero(np.isnan(found)).tolist() == [3]


def test_agreement_is_about_the_highest_score() -> None:
    a = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert similarity.agreement(a, np.array([1, 1, 1])).tolist() == [True, False, True]
    assert similarity.agreement(a, 10 * a - 3).all()


def test_representations_of_different_samples_are_refused() -> None:
    x, y = unit_rows(4, 3, 1), unit_rows(5, 3, 1)
    for compare in (similarity.linear_cka, similarity.agreement, lambda a, b: similarity.neighbour_overlap(a, b, 2)):
        with pytest.raises(ValueError, match="4 and 5 samples"):
            compare(x, y)
    for k in (0, 4):
        with pytest.raises(ValueError, match="neighbours"):
            similarity.neighbour_overlap(x, x, k)
