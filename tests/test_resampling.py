"""Bootstrap intervals: against the normal interval of a mean, against SciPy, and of two ways that must agree."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.metrics import resampling
from distill.metrics.resampling import Members, Metric, mean, mean_metric, paired_difference


def slow_mean(scores: np.ndarray) -> float:
    """The mean, but not the function for which there is a faster way."""
    return mean(scores)


def mean_of_products(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a * b))


def difference_of_means(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a) - np.mean(b))


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    """For many samples of a distribution with finite variance: mean ± 1.96 standard errors."""
    scores = np.random.default_rng(1).exponential(size=2000)
    low, high = mean_metric(scores).interval(rounds=4000)
    error = scores.std() / math.sqrt(len(scores))
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.15 * error)


def test_intervals_contain_the_true_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        low, high = mean_metric(rng.normal(3.0, 2.0, size=80)).interval(level=0.9, rounds=400)
        inside += low <= 3.0 <= high
    # The share has a standard error of 0.015, and the percentile interval of 80 samples is slightly too short.
    assert 0.84 <= inside / 400 <= 0.94


@pytest.mark.parametrize("statistic", [np.median, np.std, mean])
def test_intervals_agree_with_scipy(statistic: Callable[..., float]) -> None:
    scores = np.random.default_rng(3).gamma(2.0, size=300)
    low, high = Metric(statistic, (scores,)).interval(level=0.8, rounds=5000)
    expected = scipy.stats.bootstrap(
        (scores,),
        statistic,
        n_resamples=5000,
        confidence_level=0.8,
        method="percentile",
        vectorized=False,
        random_state=0,
    )
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.15 * expected.standard_error)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.15 * expected.standard_error)


@pytest.mark.parametrize("independent", [False, True])
def test_intervals_of_two_arrays_agree_with_scipy(independent: bool) -> None:
    """Resampled in pairs, the difference of two arrays that vary together is certain; resampled apart, it is not."""
    rng = np.random.default_rng(4)
    a = rng.normal(size=250)
    b = a + 0.1 * rng.normal(size=250)
    low, high = Metric(difference_of_means, (a, b), independent=independent).interval(rounds=4000)
    expected = scipy.stats.bootstrap(
        (a, b),
        difference_of_means,
        n_resamples=4000,
        paired=not independent,
        vectorized=False,
        method="percentile",
        random_state=0,
    )
    assert low == pytest.approx(expected.confidence_interval.low, abs=0.2 * expected.standard_error)
    assert high == pytest.approx(expected.confidence_interval.high, abs=0.2 * expected.standard_error)
    assert (high - low < 0.05) is not independent


def test_independent_arrays_may_differ_in_length() -> None:
    a, b = np.random.default_rng(5).normal(size=100), np.random.default_rng(6).normal(size=400)
    low, high = Metric(difference_of_means, (a, b), independent=True).interval(rounds=2000)
    error = math.sqrt(a.var() / 100 + b.var() / 400)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=40), st.integers(1, 30), st.integers(0, 5), st.booleans())
def test_the_fast_way_equals_the_general_one(scores: list[float], rounds: int, seed: int, grouped: bool) -> None:
    array = np.array(scores)
    groups = np.arange(len(scores)) // 3 if grouped else None
    fast = Metric(mean, (array,), groups=groups).replicates(rounds, seed)
    general = Metric(slow_mean, (array,), groups=groups).replicates(rounds, seed)
    np.testing.assert_allclose(fast, general, rtol=0, atol=1e-12)


def test_blocks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 resamples of 37 numbers, drawn 27 at a time and all at once."""
    whole = np.concatenate(list(resampling.resamples(37, 100, 7)))
    monkeypatch.setattr(resampling, "BLOCK", 1000)
    blocks = list(resampling.resamples(37, 100, 7))
    assert [len(block) for block in blocks] == [27, 27, 27, 19]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert whole.min() == 0 and whole.max() == 36


def test_the_same_seed_gives_the_same_interval_and_another_seed_another_one() -> None:
    metric = mean_metric(np.random.default_rng(8).random(50))
    assert metric.interval(seed=1) == metric.interval(seed=1)
    assert metric.interval(seed=1) != metric.interval(seed=2)
    assert metric.value == pytest.approx(metric.arrays[0].mean(), abs=1e-15)


def test_resampling_groups_widens_the_interval_of_samples_that_depend_on_each_other() -> None:
    """Five equal captions of each image are worth one."""
    per_image = np.random.default_rng(9).random(120)
    scores, groups = np.repeat(per_image, 5), np.repeat(np.arange(120) * 7 - 3, 5)
    clustered = mean_metric(scores, groups=groups).interval(rounds=2000)
    assert clustered == pytest.approx(mean_metric(per_image).interval(rounds=2000), abs=1e-12)
    low, high = mean_metric(scores).interval(rounds=2000)
    assert (clustered[1] - clustered[0]) / (high - low) == pytest.approx(math.sqrt(5), rel=0.1)


def test_members_are_all_samples_of_the_groups_chosen() -> None:
    groups = np.array([5, 9, 5, -1, 9, 9])  # renumbered: -1 → 0, 5 → 1, 9 → 2
    members = Members(groups)
    assert members.count == 3
    assert members.samples(np.array([2, 0, 2])).tolist() == [1, 4, 5, 3, 1, 4, 5]
    assert members.samples(np.array([1, 1, 1])).tolist() == [0, 2] * 3


@pytest.mark.parametrize("samples", [0, 1])
def test_fewer_than_two_samples_have_no_interval(samples: int) -> None:
    scores = np.full(samples, 0.5)
    assert np.isnan(mean_metric(scores).interval()).all()
    assert np.isnan(Metric(mean_of_products, (scores, scores)).interval()).all()
    assert np.isnan(Metric(difference_of_means, (scores, np.arange(5.0)), independent=True).interval()).all()
    assert mean_metric(scores).value == pytest.approx(0.5 if samples else np.nan, nan_ok=True)


def test_one_group_has_no_interval() -> None:
    assert np.isnan(mean_metric(np.arange(4.0), groups=np.zeros(4, dtype=int)).interval()).all()


def test_resamples_without_a_value_are_left_out() -> None:
    """Of a class with one sample in three, more than a quarter of all resamples have none."""

    def of_class(scores: np.ndarray, labels: np.ndarray) -> float:
        return mean(scores[labels == 1])

    metric = Metric(of_class, (np.array([0.0, 1.0, 0.7]), np.array([0, 0, 1])))
    assert 0.25 < np.isnan(metric.replicates(1000)).mean() < 0.35  # (2/3)³ = 0.296
    assert metric.interval() == pytest.approx((0.7, 0.7), abs=1e-12)
    never = Metric(of_class, (np.array([0.0, 1.0]), np.array([0, 0])))
    assert np.isnan(never.interval(rounds=10)).all()


def test_a_paired_difference_is_as_certain_as_its_samples_differences() -> None:
    rng = np.random.default_rng(10)
    hard = rng.random(400)
    a, b = hard + rng.normal(0.02, 0.05, 400), hard + rng.normal(0.0, 0.05, 400)
    difference, low, high = paired_difference(mean_metric(a), mean_metric(b), rounds=3000)
    assert difference == pytest.approx(np.mean(a - b), abs=1e-12)
    assert (low, high) == pytest.approx(mean_metric(a - b).interval(rounds=3000), abs=1e-12)
    assert paired_difference(mean_metric(a), mean_metric(a)) == (0, 0, 0)


def test_a_paired_difference_needs_the_same_samples() -> None:
    four, groups = mean_metric(np.arange(4.0)), np.array([0, 0, 1, 1])
    grouped = mean_metric(np.arange(4.0), groups=groups)
    for other in (mean_metric(np.arange(5.0)), grouped, Metric(mean, (np.arange(4.0),), independent=True)):
        with pytest.raises(ValueError, match="not of the same samples"):
            paired_difference(four, other)
    with pytest.raises(ValueError, match="their groups differ"):
        paired_difference(grouped, mean_metric(np.arange(4.0), groups=groups[::-1]))


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one array"):
        Metric(mean, ())
    with pytest.raises(ValueError, match=r"different lengths: \[3, 4\]"):
        Metric(mean_of_products, (np.zeros(3), np.zeros(4)))
    with pytest.raises(ValueError, match="2 groups for 3 samples"):
        mean_metric(np.zeros(3), groups=np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="independent of each other"):
        Metric(mean, (np.zeros(3),), groups=np.zeros(3, dtype=int), independent=True)
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="between 0 and 1"):
            mean_metric(np.zeros(3)).interval(level=level)
