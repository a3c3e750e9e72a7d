"""Reference implementations of the formulas: float64 NumPy with loops, from the papers, not from the tested code.

Equations are those of Kossen et al., Three Towers, arXiv 2305.16999, where no other paper is named. ``scale`` is 1/τ
throughout; ``rows`` restricts sums over samples i, never those over the candidates j of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Rows = Sequence[int]


def unit_rows(n: int, d: int, seed: int) -> Array:
    """[n, d] rows of length 1, in random directions."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def log_sum_exp(values: Array) -> float:
    """log Σ exp, shifted by the largest value, since exp(1000) would overflow float64."""
    largest = float(values.max())
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def log_softmax(values: Array) -> Array:
    return values - log_sum_exp(values)


def slopes(value: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """The gradient of a function by central differences; its error is about 1e-7 for the losses below."""
    gradient = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        change = np.zeros(at.shape)
        change[index] = step
        gradient[index] = (value(at + change) - value(at - change)) / (2 * step)
    return gradient


# Losses over all pairs of the batch.


def contrastive(f: Array, g: Array, scale: float, rows: Rows | None = None) -> float:
    """Eq. 2–4: ½ (L_{f→g} + L_{g→f})."""
    rows = range(len(f)) if rows is None else rows
    f_to_g = g_to_f = 0.0
    for i in rows:
        right = scale * float(f[i] @ g[i])
        f_to_g -= right - log_sum_exp(np.array([scale * float(f[i] @ g[j]) for j in range(len(g))]))
        g_to_f -= right - log_sum_exp(np.array([scale * float(f[j] @ g[i]) for j in range(len(f))]))
    return (f_to_g + g_to_f) / (2 * len(rows))


def by_embeddings(by_logits: Array, f: Array, g: Array, scale: float) -> tuple[Array, Array, float]:
    """Given the gradient by S = scale · f gᵀ, those by f, by g and by the scale."""
    by_f = scale * np.einsum("ij,jd->id", by_logits, g)
    by_g = scale * np.einsum("ij,id->jd", by_logits, f)
    return by_f, by_g, float(np.einsum("ij,id,jd->", by_logits, f, g))


def contrastive_gradient(f: Array, g: Array, scale: float) -> tuple[Array, Array, float]:
    """The gradient of Eq. 2 by f, by g and by the scale.

    A cross-entropy's gradient by its logits is softmax minus identity. Eq. 3 takes the softmax over the rows of S
    and Eq. 4 over its columns: ∂L/∂S = (P − I + Q − I) / 2N.
    """
    n = len(f)
    logits = scale * np.einsum("id,jd->ij", f, g)
    by_rows, by_columns = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            by_rows[i, j] = math.exp(logits[i, j] - log_sum_exp(logits[i, :]))
            by_columns[i, j] = math.exp(logits[i, j] - log_sum_exp(logits[:, j]))
    return by_embeddings((by_rows + by_columns - 2 * np.eye(n)) / (2 * n), f, g, scale)


def sigmoid(f: Array, g: Array, scale: float, bias: float, rows: Rows | None = None) -> float:
    """Zhai et al., SigLIP, arXiv 2303.15343, Eq. 1: −1/N Σ_i Σ_j log 1 / (1 + exp(z_ij (−t x_i·y_j − b)))."""
    rows = range(len(f)) if rows is None else rows
    total = 0.0
    for i in rows:
        for j in range(len(g)):
            z = 1 if i == j else -1
            wrong = z * (-scale * float(f[i] @ g[j]) - bias)
            total += max(wrong, 0.0) + math.log1p(math.exp(-abs(wrong)))
    return total / len(rows)


def sigmoid_gradient(f: Array, g: Array, scale: float, bias: float) -> tuple[Array, Array, float, float]:
    """The gradient of SigLIP's Eq. 1 by f, g, scale and bias; by a logit it is −z / (1 + exp(z logit)) / N."""
    n = len(f)
    by_logits = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            z = 1 if i == j else -1
            by_logits[i, j] = -z / (1 + math.exp(z * (scale * float(f[i] @ g[j]) + bias))) / n
    return *by_embeddings(by_logits, f, g, scale), float(by_logits.sum())


def relational(
    f: Array,
    g: Array,
    p: Array,
    q: Array,
    scale: float,
    teacher_scale: float,
    without_self: bool = False,
    rows: Rows | None = None,
) -> float:
    """Yang et al., CLIP-KD, arXiv 2307.12732, section 3.2: KL from the student's distribution of each sample over
    all candidates to the teacher's, image to text and text to image; here their mean, as in Eq. 2."""
    rows = range(len(f)) if rows is None else rows
    total = 0.0
    for i in rows:
        others = [j for j in range(len(f)) if not (without_self and i == j)]
        for mine, theirs, own, candidates in ((f, g, p, q), (g, f, q, p)):
            if others:
                student = log_softmax(np.array([scale * float(mine[i] @ theirs[j]) for j in others]))
                teacher = log_softmax(np.array([teacher_scale * float(own[i] @ candidates[j]) for j in others]))
                total += sum(math.exp(t) * (t - s) for s, t in zip(student, teacher, strict=True))
    return total / (2 * len(rows))


def relational_gradient(
    f: Array, g: Array, p: Array, q: Array, scale: float, teacher_scale: float, without_self: bool = False
) -> tuple[Array, Array, float]:
    """The gradient of :func:`relational` by f, g and the scale: by the logits, softmax minus softmax."""
    n = len(f)
    by_logits = np.zeros((n, n))
    for i in range(n):
        others = [j for j in range(n) if not (without_self and i == j)]
        for swapped, (mine, theirs, own, candidates) in enumerate(((f, g, p, q), (g, f, q, p))):
            if others:
                student = log_softmax(np.array([scale * float(mine[i] @ theirs[j]) for j in others]))
                teacher = log_softmax(np.array([teacher_scale * float(own[i] @ candidates[j]) for j in others]))
                for j, slope in zip(others, np.exp(student) - np.exp(teacher), strict=True):
                    by_logits[(j, i) if swapped else (i, j)] += slope / (2 * n)
    return by_embeddings(by_logits, f, g, scale)


# Losses within a sample.


def l2(a: Array, b: Array, rows: Rows | None = None) -> float:
    """One sum of Eq. 5: 1/N Σ ‖a_i − b_i‖²."""
    rows = range(len(a)) if rows is None else rows
    return sum(float(x - y) ** 2 for i in rows for x, y in zip(a[i], b[i], strict=True)) / len(rows)


def l2_gradient(a: Array, b: Array) -> tuple[Array, Array]:
    """The gradient of :func:`l2` by a and by b."""
    return 2 * (a - b) / len(a), 2 * (b - a) / len(a)


def cosine(a: Array, b: Array) -> float:
    """1/n Σ 1 − a_i·b_i / ‖a_i‖‖b_i‖ (half of Eq. 2 of BYOL, arXiv 2006.07733)."""
    return sum(1 - float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) for x, y in zip(a, b, strict=True)) / len(a)


def cosine_gradient(a: Array, b: Array) -> tuple[Array, Array]:
    """The gradient of :func:`cosine` by a and by b: −(ŷ − cos x̂) / n‖x‖ by a row x, for its partner y."""
    gradients = np.zeros(a.shape), np.zeros(b.shape)
    for gradient, these, those in zip(gradients, (a, b), (b, a), strict=True):
        for i, (x, y) in enumerate(zip(these, those, strict=True)):
            x_unit, y_unit = x / math.sqrt(float(x @ x)), y / math.sqrt(float(y @ y))
            gradient[i] = (float(x_unit @ y_unit) * x_unit - y_unit) / math.sqrt(float(x @ x)) / len(a)
    return gradients


def standardised(row: Array) -> Array:
    """A layer norm without weights, with the usual ε = 1e-5 added to the variance."""
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    return np.array([(x - mean) / math.sqrt(variance + 1e-5) for x in row])


def smooth_l1(a: Array, b: Array, beta: float = 2.0) -> float:
    """Wei et al., arXiv 2205.14141, Eq. 3: x² / 2β where |x| ≤ β, else |x| − β/2; the target is standardised."""
    total = 0.0
    for row, target in zip(a, b, strict=True):
        for x in row - standardised(target):
            total += x**2 / (2 * beta) if abs(x) <= beta else abs(x) - beta / 2
    return total / a.size


def smooth_l1_gradient(a: Array, b: Array, beta: float = 2.0) -> Array:
    """The gradient of :func:`smooth_l1` by a."""
    rows = [row - standardised(target) for row, target in zip(a, b, strict=True)]
    return np.array([[max(-1.0, min(1.0, x / beta)) for x in row] for row in rows]) / a.size


def kl(student: Array, teacher: Array, temperature: float = 1.0) -> float:
    """Hinton et al., arXiv 1503.02531, section 2, with its T²: KL(teacher ‖ student) of softened logits."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        ours, theirs = log_softmax(s / temperature), log_softmax(t / temperature)
        total += sum(math.exp(y) * (y - x) for x, y in zip(ours, theirs, strict=True))
    return temperature**2 * total / len(student)


def kl_gradient(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """The gradient of :func:`kl` by the student's logits (Hinton et al., Eq. 2): T (softmax − softmax) / n."""
    softened = [[np.exp(log_softmax(x / temperature)) for x in rows] for rows in (student, teacher)]
    return temperature * (np.array(softened[0]) - np.array(softened[1])) / len(student)


# Objectives, over a batch of arrays: image, text, scale, bias, and for every teacher k "image_h.k" and so on.


def objective(
    name: str,
    batch: Mapping[str, Array],
    weights: Sequence[float],
    *,
    pair: str = "softmax",
    temperatures: str = "shared",
    terms: Sequence[str] = ("fg", "fh", "gh"),
    weight: float = 1.0,
    beta: float = 2.0,
    temperature: float = 1.0,
    teacher_temperature: float = 0.07,
) -> float:
    """Eq. 1, Eq. 5 and similar: the mean of the kept terms, where the terms of teacher k are multiplied by w · w_k.
    The temperatures of section E.5 are in the order f↔g, f_h↔h_f and g_h↔h_g of the first teacher, …
    Of texts there may be fewer than of images: the last images have no caption, and no part in terms of texts."""
    captioned = len(batch["text"])

    def towers(a: Array, b: Array, term: int = 0) -> float:
        a, b = (x[:captioned] for x in (a, b)) if captioned in (len(a), len(b)) else (a, b)
        which = term if temperatures == "own" else 0
        if pair == "softmax":
            return contrastive(a, b, batch["scale"][which])
        return sigmoid(a, b, batch["scale"][which], batch["bias"][which])

    def like(a: Array, b: Array, p: Array, q: Array, without_self: bool) -> float:
        return relational(a, b, p, q, batch["scale"][0], 1 / teacher_temperature, without_self)

    def transfer(student: str, teacher: str, k: int, term: int) -> float:
        if name == "relational":
            tower = batch["image" if student == "image_h" else "text"]
            target = batch[f"teacher.{k}"][: len(tower)]
            return like(tower, tower, target, target, True)
        a, b = batch[f"{student}.{k}"], batch[f"{teacher}.{k}"]
        a, b = a[: len(b)], b[: len(a)]
        if name == "three_towers":
            return towers(a, b, term)
        return smooth_l1(a, b, beta) if name == "smooth_l1" else {"l2": l2, "cosine": cosine}[name](a, b)

    fg = towers(batch["image"], batch["text"])
    if name == "contrastive":
        return fg
    if name == "crd":
        image, image_teacher = batch["image"][:captioned], batch["teacher.0"][:captioned]
        return (fg + weight * like(image, batch["text"], image_teacher, batch["teacher.1"][:captioned], False)) / 2
    if name == "function_matching":
        logits = ((batch[f"student_logits.{k}"], batch[f"teacher_logits.{k}"]) for k in range(len(weights)))
        total = weight * sum(w * kl(*pair, temperature) for w, pair in zip(weights, logits, strict=True))
        return (fg + total) / (1 + len(weights)) if "fg" in terms else total / len(weights)
    values = [fg] if "fg" in terms else []
    for k, w in enumerate(weights):
        if "fh" in terms:
            values.append(weight * w * transfer("image_h", "teacher_f", k, 1 + 2 * k))
        if "gh" in terms:
            values.append(weight * w * transfer("text_h", "teacher_g", k, 2 + 2 * k))
    return sum(values) / len(values)


@dataclass(frozen=True)
class TeacherPair:
    """What one pair of teachers gives for a batch, as unit rows, and the students' rows that are compared with it."""

    image_student: Array
    image_teacher: Array
    text_student: Array
    text_teacher: Array
    temperature: float
    weight: float


def between_students(batch: dict[str, Array], pair: str) -> float:
    """f ↔ g over the captioned samples."""
    f, g = batch["image"][: len(batch["text"])], batch["text"]
    scale = float(batch["scale"][0])
    return contrastive(f, g, scale) if pair == "softmax" else sigmoid(f, g, scale, float(batch["bias"][0]))


def of_similarities(batch: dict[str, Array], one: TeacherPair) -> float:
    """KL(p qᵀ/τ_k ‖ f gᵀ/τ), both directions, over the captioned samples."""
    n = len(batch["text"])
    sides = batch["image"][:n], batch["text"], one.image_teacher[:n], one.text_teacher
    return relational(*sides, float(batch["scale"][0]), 1 / one.temperature)


def mobileclip(
    batch: dict[str, Array], pairs: Sequence[TeacherPair], share: float = 0.75, pair: str = "softmax"
) -> float:
    """Vasu et al., MobileCLIP, arXiv 2311.17049, Eq. 1–3: (1 − λ) L_CLIP + λ L_Distill, the mean over K teachers."""
    total = 0.0
    for one in pairs:
        total += one.weight * of_similarities(batch, one) / len(pairs)
    return (1 - share) * between_students(batch, pair) + share * total


def clip_kd(
    batch: dict[str, Array],
    pairs: Sequence[TeacherPair],
    fd: float = 2000.0,
    crd: float = 1.0,
    icl: float = 1.0,
    pair: str = "softmax",
) -> float:
    """Yang et al., CLIP-KD, arXiv 2307.12732, section 3.2: L_CLIP + λ_FD FD + λ_CRD CRD + λ_ICL ICL, here the mean
    over several pairs. FD is the mean squared error over samples and dimensions, of images and of texts."""
    loss = between_students(batch, pair)
    for one in pairs:
        part = 0.0
        if fd:
            sides = (one.image_student, one.image_teacher), (one.text_student, one.text_teacher)
            part += fd * sum(float(np.mean((own - other) ** 2)) for own, other in sides)
        if crd:
            part += crd * of_similarities(batch, one)
        if icl:
            n, scale = len(batch["text"]), float(batch["scale"][1])
            towards = (one.image_student[:n], one.text_teacher), (one.text_student, one.image_teacher[:n])
            for own, candidates in towards:
                for i in range(n):
                    logits = np.array([scale * float(own[i] @ candidates[j]) for j in range(n)])
                    part += icl * (log_sum_exp(logits) - logits[i]) / (2 * n)
        loss += one.weight * part / len(pairs)
    return loss


# Retrieval.


def recalls(
    queries: Array, candidates: Array, right: Sequence[Sequence[int]], ranks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Sort all candidates of every query, wrong before right ones if scores tie, and check the first k."""
    hits = dict.fromkeys(ranks, 0)
    for query, answers in zip(queries, right, strict=True):
        scores = [float(np.dot(query.astype(np.float64), c.astype(np.float64))) for c in candidates]
        order = sorted(range(len(candidates)), key=lambda c: (-scores[c], c in answers))
        for k in ranks:
            hits[k] += any(c in answers for c in order[:k])
    return {k: hits[k] / len(queries) for k in ranks}


def chance(candidates: int, right: Sequence[Sequence[int]], k: int) -> float:
    """The exact value: of the C(c, k) subsets of k candidates, C(c − r, k) contain none of the r right ones."""
    k = min(k, candidates)
    miss = [math.comb(candidates - len(answers), k) / math.comb(candidates, k) for answers in right]
    return 1 - sum(miss) / len(miss)


def chance_by_drawing(
    candidates: int, right: Sequence[Sequence[int]], k: int, draws: int, seed: int
) -> tuple[float, float]:
    """An estimate from many random rankings: mean recall and the standard error of that mean."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        order = rng.permutation(candidates)[:k]
        found.append(np.mean([bool(set(answers) & set(order.tolist())) for answers in right]))
    return float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(draws))
