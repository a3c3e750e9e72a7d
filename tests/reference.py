"""What the formulas say: float64 NumPy with loops, written from the papers and not from the code under test.

Equations are those of Kossen et al., Three Towers, arXiv 2305.16999. ``scale`` is 1/τ throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Head(NamedTuple):
    """One teacher's rows, f_h, h_f, g_h and h_g, and its weight w_k."""

    image_h: Array
    teacher_f: Array
    text_h: Array
    teacher_g: Array
    weight: float = 1.0


def unit_rows(n: int, d: int, seed: int) -> Array:
    """[n, d] rows of length 1, in random directions."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def unit_heads(n: int, d: int, weights: Sequence[float]) -> list[Head]:
    """Random rows for one teacher a weight."""
    return [Head(*(unit_rows(n, d, 10 * k + i) for i in range(4)), w) for k, w in enumerate(weights, 1)]


def log_sum_exp(values: Array) -> float:
    """log Σ exp, shifted by the largest value: exp(100) is fine in float64, exp(1000) is not."""
    top = float(values.max())
    return top + math.log(sum(math.exp(value - top) for value in values))


def contrastive(f: Array, g: Array, scale: float, rows: Sequence[int] | None = None) -> float:
    """Eq. 2–4: ½ (L_{f→g} + L_{g→f}); ``rows`` restricts the sums over i, never those over j."""
    rows = range(len(f)) if rows is None else rows
    f_to_g = g_to_f = 0.0
    for i in rows:
        right = scale * float(f[i] @ g[i])
        f_to_g -= right - log_sum_exp(np.array([scale * float(f[i] @ g[j]) for j in range(len(g))]))
        g_to_f -= right - log_sum_exp(np.array([scale * float(f[j] @ g[i]) for j in range(len(f))]))
    return (f_to_g + g_to_f) / (2 * len(rows))


def contrastive_gradient(f: Array, g: Array, scale: float) -> tuple[Array, Array, float]:
    """The gradient of Eq. 2 by f, by g and by the scale.

    With S = scale · f gᵀ, a cross-entropy's gradient by its logits is softmax minus identity. Eq. 3 takes the
    softmax over S's rows and Eq. 4 over its columns: ∂L/∂S = (P − I + Q − I) / 2N.
    """
    n = len(f)
    logits = scale * np.einsum("id,jd->ij", f, g)
    by_rows, by_columns = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            by_rows[i, j] = math.exp(logits[i, j] - log_sum_exp(logits[i, :]))
            by_columns[i, j] = math.exp(logits[i, j] - log_sum_exp(logits[:, j]))
    by_logits = (by_rows + by_columns - 2 * np.eye(n)) / (2 * n)
    by_f = scale * np.einsum("ij,jd->id", by_logits, g)
    by_g = scale * np.einsum("ij,id->jd", by_logits, f)
    return by_f, by_g, float(np.einsum("ij,id,jd->", by_logits, f, g))


def l2(a: Array, b: Array, rows: Sequence[int] | None = None) -> float:
    """One sum of Eq. 5: 1/N Σ ‖a_i − b_i‖²."""
    rows = range(len(a)) if rows is None else rows
    return sum(float(x - y) ** 2 for i in rows for x, y in zip(a[i], b[i], strict=True)) / len(rows)


def l2_gradient(a: Array, b: Array) -> Array:
    """The gradient of :func:`l2` by a; by b it is the negative."""
    return 2 * (a - b) / len(a)


def three_towers(image: Array, text: Array, head: Head, scale: float) -> float:
    """Eq. 1: ⅓ (L_{f↔g} + L_{f_h↔h_f} + L_{g_h↔h_g})."""
    return (
        contrastive(image, text, scale)
        + contrastive(head.image_h, head.teacher_f, scale)
        + contrastive(head.text_h, head.teacher_g, scale)
    ) / 3


def l2_transfer(image: Array, text: Array, head: Head, scale: float, weight: float) -> float:
    """Eq. 5: ⅓ {L_{f↔g} + w 1/N Σ [‖f_h − h_f‖² + ‖g_h − h_g‖²]}."""
    distances = l2(head.image_h, head.teacher_f) + l2(head.text_h, head.teacher_g)
    return (contrastive(image, text, scale) + weight * distances) / 3


def transfer(
    term: Callable[[Array, Array], float],
    image: Array,
    text: Array,
    heads: Sequence[Head],
    scale: float,
    weight: float,
    rows: Sequence[int] | None = None,
) -> float:
    """(L_{f↔g} + w Σ_k w_k (T(f_h, h_f) + T(g_h, h_g))) / (1 + 2K): Eq. 1 and 5 for K teachers."""
    total = contrastive(image, text, scale, rows)
    for head in heads:
        pairs = (head.image_h, head.teacher_f), (head.text_h, head.teacher_g)
        total += weight * head.weight * sum(term(a, b) for a, b in pairs)
    return total / (1 + 2 * len(heads))


def recalls(
    queries: Array, candidates: Array, right: Sequence[Sequence[int]], ranks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Sort all candidates of every query, wrong before right where scores tie, and look at the first k."""
    hits = dict.fromkeys(ranks, 0)
    for query, answers in zip(queries, right, strict=True):
        scores = [float(np.dot(query.astype(np.float64), c.astype(np.float64))) for c in candidates]
        order = sorted(range(len(candidates)), key=lambda c: (-scores[c], c in answers))
        for k in ranks:
            hits[k] += any(c in answers for c in order[:k])
    return {k: hits[k] / len(queries) for k in ranks}


def chance(candidates: int, right: Sequence[Sequence[int]], k: int) -> float:
    """Exactly: of the C(c, k) ways to draw k candidates, C(c − r, k) hold none of the r right ones."""
    k = min(k, candidates)
    miss = [math.comb(candidates - len(answers), k) / math.comb(candidates, k) for answers in right]
    return 1 - sum(miss) / len(miss)


def chance_by_drawing(
    candidates: int, right: Sequence[Sequence[int]], k: int, draws: int, seed: int
) -> tuple[float, float]:
    """Rank the candidates at random, often: mean recall and the standard error of that mean."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        order = rng.permutation(candidates)[:k]
        found.append(np.mean([bool(set(answers) & set(order.tolist())) for answers in right]))
    return float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(draws))
