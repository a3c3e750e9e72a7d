"""Retrieval metrics against a full sort, chance, CLIP_benchmark; tiles against the whole; memory of a large one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import reference
import torch
from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import unit_rows

from distill.metrics import ranking


@st.composite
def retrievals(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Queries, candidates and right answers. Their entries are integers: scores are exact, and so are ties."""
    candidates, queries, d = draw(st.integers(1, 20)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    sizes = rng.integers(1, candidates + 1, queries)
    right = [sorted(rng.choice(candidates, size, replace=False).tolist()) for size in sizes]
    sides = (rng.integers(-2, 3, (n, d)).astype(np.float32) for n in (queries, candidates))
    return *sides, right


@settings(deadline=None)
@given(retrievals())
def test_recalls_equal_those_of_a_full_sort(case: tuple[np.ndarray, np.ndarray, list[list[int]]]) -> None:
    assert ranking.recalls(*case) == pytest.approx(reference.recalls(*case), abs=1e-12)


def test_recalls_of_more_queries_than_a_tile_equal_the_reference() -> None:
    """Each tile of queries must be compared with its own right answers."""
    count = ranking.TILE[0] + 37
    queries, candidates = unit_rows(count, 6, 1).astype(np.float32), unit_rows(24, 6, 2).astype(np.float32)
    right = [sorted({i % 24, i * 7 % 24}) for i in range(count)]
    expected = reference.recalls(queries, candidates, right)
    assert ranking.recalls(queries, candidates, right) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected[1] < expected[5] < expected[10] < 1


def test_recall_counts_the_best_right_answer_and_only_wrong_ones_ranked_before_it() -> None:
    candidates = np.diag(np.arange(1.0, 13.0))
    query = np.ones((1, 12))  # candidate 11 scores best, then 10, 9, …
    assert ranking.recalls(query, candidates, [[0, 11]]) == {1: 1, 5: 1, 10: 1}
    assert ranking.recalls(query, candidates, [[0, 1, 2, 7]]) == {1: 0, 5: 1, 10: 1}
    assert ranking.recalls(query, candidates, [[2]]) == {1: 0, 5: 0, 10: 1}
    assert ranking.recalls(query, candidates, [[1]]) == {1: 0, 5: 0, 10: 0}


@pytest.mark.parametrize("queries, candidates", [(17, 17), (13, 31), (33, 33), (256, 24), (500, 500)])
@pytest.mark.parametrize("width", [3, 32, 100, 512])
def test_a_collapsed_model_has_recall_0(queries: int, candidates: int, width: int) -> None:
    """All embeddings are equal. A matrix product may round equal rows differently, which must not break the tie."""
    for seed in range(10):
        row = unit_rows(1, width, seed).astype(np.float32)
        sides = np.tile(row, (queries, 1)), np.tile(row, (candidates, 1))
        found = ranking.recalls(*sides, [[i % candidates] for i in range(queries)])
        assert found == {1: 0, 5: 0, 10: 0}, f"seed {seed}"


def test_recall_is_1_if_every_candidate_is_right_even_for_a_collapsed_model() -> None:
    same = np.ones((4, 3), dtype=np.float32) / np.sqrt(3)
    everything = [[0, 1, 2, 3]] * 4
    assert ranking.recalls(same, same, everything) == {1: 1, 5: 1, 10: 1}


@pytest.mark.parametrize("broken", ["queries", "candidates", "both"])
def test_a_model_with_nan_embeddings_has_recall_0(broken: str) -> None:
    good, bad = unit_rows(20, 4, 1), np.full((20, 4), np.nan)
    queries, candidates = good if broken == "candidates" else bad, good if broken == "queries" else bad
    assert ranking.recalls(queries, candidates, [[i] for i in range(20)]) == {1: 0, 5: 0, 10: 0}


@pytest.mark.parametrize("candidates", [1, 3, 10, 40])
def test_chance_equals_the_recall_of_random_rankings(candidates: int) -> None:
    sizes = (1, 1, 2, 3, 5, candidates)
    right = [list(range(min(size, candidates))) for size in sizes]
    chance = ranking.chance(candidates, right)
    for k in (1, 5, 10):
        assert chance[k] == pytest.approx(reference.chance(candidates, right, k), abs=1e-12)
        mean, error = reference.chance_by_drawing(candidates, right, k, draws=2000, seed=k)
        assert abs(chance[k] - mean) <= 3 * error + 1e-12


def test_chance_equals_the_recall_of_random_embeddings() -> None:
    """The functions ``recalls`` and ``chance`` are consistent with each other."""
    right = [[i, (i + 1) % 30] for i in range(30)]
    runs = [ranking.recalls(unit_rows(30, 8, s), unit_rows(30, 8, 1000 + s), right) for s in range(200)]
    for k, expected in ranking.chance(30, right).items():
        found = [run[k] for run in runs]
        assert abs(np.mean(found) - expected) <= 3 * np.std(found) / np.sqrt(len(found))


tile_sizes = st.tuples(st.integers(1, 5), st.integers(1, 7))


@settings(deadline=None)
@given(retrievals(), tile_sizes)
def test_ranks_of_tiles_equal_those_of_a_full_sort(
    case: tuple[np.ndarray, np.ndarray, list[list[int]]], tile: tuple[int, int]
) -> None:
    found = ranking.ranks(*case, tile=tile)
    np.testing.assert_array_equal(found, ranking.ranks(*case))
    for k in (1, 2, 7):
        assert np.mean(found <= k) == pytest.approx(reference.recalls(*case, ranks=[k])[k], abs=1e-12)


@settings(deadline=None)
@given(retrievals(), tile_sizes, st.integers(1, 25))
def test_top_equals_a_stable_sort(
    case: tuple[np.ndarray, np.ndarray, list[list[int]]], tile: tuple[int, int], k: int
) -> None:
    queries, candidates, _ = case
    scores = queries @ candidates.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ranking.top(queries, candidates, k, tile), expected)
    np.testing.assert_array_equal(ranking.top(queries, candidates, k), expected)
    values = ranking.top_scores(queries, candidates, k, tile)[1]
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


def test_top_ranks_nan_last() -> None:
    candidates = np.array([[np.nan], [1.0], [3.0], [np.nan], [2.0]])
    assert ranking.top(np.ones((1, 1)), candidates, 5, tile=(1, 2)).tolist() == [[2, 4, 1, 0, 3]]


def test_top_of_nothing_is_empty() -> None:
    assert ranking.top(np.zeros((0, 4)), np.zeros((3, 4)), 2).shape == (0, 2)
    assert ranking.top(np.zeros((3, 4)), np.zeros((0, 4)), 2).shape == (3, 0)


@pytest.mark.parametrize("types", [(np.float16, np.float16), (np.float32, np.float64), (np.float16, np.float64)])
def test_embeddings_may_have_any_floating_type(types: tuple[type, type]) -> None:
    """The entries are multiples of 1/4, exact in all types."""
    rng = np.random.default_rng(1)
    queries, candidates = (rng.integers(-8, 9, (n, 5)) / 4 for n in (30, 40))
    narrow = queries.astype(types[0]), candidates.astype(types[1])
    right = [[i] for i in range(30)]
    np.testing.assert_array_equal(ranking.ranks(*narrow, right), ranking.ranks(queries, candidates, right))
    np.testing.assert_array_equal(ranking.top(*narrow, 6), ranking.top(queries, candidates, 6))


def test_hits_are_those_whose_means_are_the_recalls() -> None:
    queries, candidates = unit_rows(50, 4, 1), unit_rows(30, 4, 2)
    right = [[i % 30, i * 7 % 30] for i in range(50)]
    hits = ranking.recall_hits(queries, candidates, right)
    assert {k: float(h.mean()) for k, h in hits.items()} == ranking.recalls(queries, candidates, right)
    assert all(h.shape == (50,) and h.dtype == bool for h in hits.values())
    assert set(ranking.recall_hits(queries, candidates, right, ks=[3])) == {3}


def test_no_queries_have_recall_0() -> None:
    assert ranking.recalls(np.zeros((0, 4)), unit_rows(3, 4, 1), []) == {1: 0, 5: 0, 10: 0}


@pytest.mark.parametrize("right", [[[0], []], [[0]], [[0], [3]], [[0], [-1]]])
def test_right_answers_that_do_not_fit_are_refused(right: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="right answer"):
        ranking.ranks(unit_rows(2, 4, 1), unit_rows(3, 4, 2), right)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("captions", [1, 5])
def test_recalls_equal_those_of_clip_benchmark(seed: int, captions: int) -> None:
    """In both directions, over images with one and with five captions each."""
    images = unit_rows(60, 16, seed).astype(np.float32)
    texts = np.repeat(images, captions, axis=0) + 1.5 * unit_rows(60 * captions, 16, 100 + seed).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    image_of = np.arange(60 * captions) // captions
    scores = torch.from_numpy(texts) @ torch.from_numpy(images).T
    positive = torch.from_numpy(image_of[:, None] == np.arange(60)[None])
    t2i = ranking.recalls(texts, images, [[i] for i in image_of])
    i2t = ranking.recalls(images, texts, [np.flatnonzero(image_of == i).tolist() for i in range(60)])
    for k in (1, 5, 10):
        theirs = batchify(recall_at_k, scores, positive, 16, "cpu", k=k)
        assert t2i[k] == pytest.approx((theirs > 0).float().mean().item(), abs=1e-6)
        theirs = batchify(recall_at_k, scores.T, positive.T, 16, "cpu", k=k)
        assert i2t[k] == pytest.approx((theirs > 0).float().mean().item(), abs=1e-6)
    assert 0.1 < t2i[1] < t2i[10] < 1


@pytest.mark.parametrize("kind", ["queries collapsed", "candidates collapsed", "perfect", "reversed"])
def test_recalls_of_degenerate_embeddings_equal_those_of_clip_benchmark(kind: str) -> None:
    """Where it does not depend on the order of ties; of tied candidates CLIP_benchmark takes whichever comes first."""
    rows = unit_rows(12, 8, 3).astype(np.float32)
    queries, candidates = {
        "queries collapsed": (np.tile(rows[:1], (12, 1)), rows),
        "candidates collapsed": (rows, np.tile(rows[:1], (12, 1))),
        "perfect": (rows, rows),
        "reversed": (rows, -rows),
    }[kind]
    scores = torch.from_numpy(queries.astype(np.float64)) @ torch.from_numpy(candidates.astype(np.float64)).T
    ours = ranking.recalls(queries, candidates, [[i] for i in range(12)])
    for k in (1, 5, 10):
        theirs = (recall_at_k(scores, torch.eye(12, dtype=torch.bool), k) > 0).float().mean().item()
        assert ours[k] == pytest.approx(0 if kind == "candidates collapsed" else theirs, abs=1e-6)
        assert theirs > 0 or kind == "reversed"


def test_a_large_retrieval_takes_little_memory() -> None:
    """5,000 images and 25,000 captions: all scores together would take 500 MB, and as booleans another 125 MB."""
    code = """
import re
from pathlib import Path
import numpy as np
from distill.metrics import ranking
rng = np.random.default_rng(0)
images = rng.standard_normal((5000, 512), dtype=np.float32)
texts = rng.standard_normal((25000, 512), dtype=np.float32)
for caption in range(5):
    texts[caption::5] += images
right = np.arange(25000).reshape(5000, 5).tolist()
images @ texts[:64].T  # the library of linear algebra allocates its buffers
def peak():
    # Not ru_maxrss: at first that is the memory of the process that started this one.
    return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])
before = peak()
hits = ranking.recall_hits(images, texts, right)
best = ranking.top(images, texts, 10)
assert hits[1].mean() > 0.99 and (best[:, 0] // 5 == np.arange(5000)).mean() > 0.99
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 10e6 < int(result.stdout) < 300e6, "a tile alone takes 16 MB"
