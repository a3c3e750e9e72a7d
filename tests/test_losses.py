"""Losses against the float64 reference: values, gradients, extreme inputs, and errors for invalid arguments.

In float64 everything agrees to 1e-10; in float32 to 1e-5, given the same rounded inputs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import unit_rows

import losses

SCALE = 1 / 0.07  # the initial value in training
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def leaf(x: np.ndarray | float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A leaf tensor that requires a gradient; a number becomes shape [1]."""
    return torch.tensor(np.atleast_1d(x), dtype=dtype, requires_grad=True)


def units(n: int, d: int) -> list[Any]:
    return [unit_rows(n, d, 1), unit_rows(n, d, 2)]


def unnormalised(n: int, d: int) -> list[Any]:
    """Rows of any length."""
    return [3 * np.random.default_rng(seed).normal(size=(n, d)) for seed in (1, 2)]


def related(n: int, d: int) -> list[Any]:
    """Students and teachers of different widths, and the two scales."""
    return [*units(n, d), unit_rows(n, d + 2, 3), unit_rows(n, d + 2, 4), SCALE, 1 / 0.05]


def relational_gradient(*rows: Any, without_self: bool = False) -> tuple[Any, ...]:
    by_a, by_b, by_scale = reference.relational_gradient(*rows, without_self)
    return by_a, by_b, None, None, by_scale, None


# A function that makes arguments for N and D, the loss, its reference, and the gradients; None: no gradient.
LOSSES: dict[str, tuple[Callable, Callable, Callable, Callable]] = {
    "contrastive": (
        lambda n, d: [*units(n, d), SCALE],
        losses.contrastive,
        reference.contrastive,
        reference.contrastive_gradient,
    ),
    "sigmoid": (
        lambda n, d: [*units(n, d), SCALE, -10.0],
        losses.sigmoid,
        reference.sigmoid,
        reference.sigmoid_gradient,
    ),
    "relational": (related, losses.relational, reference.relational, relational_gradient),
    "relational without self": (
        related,
        lambda *x, **rows: losses.relational(*x, without_self=True, **rows),
        lambda *x, **rows: reference.relational(*x, without_self=True, **rows),
        lambda *x: relational_gradient(*x, without_self=True),
    ),
    "l2": (units, losses.l2, reference.l2, reference.l2_gradient),
    "cosine": (unnormalised, losses.cosine, reference.cosine, reference.cosine_gradient),
    "smooth_l1": (
        unnormalised,
        losses.smooth_l1,
        reference.smooth_l1,
        lambda a, b: (
            reference.smooth_l1_gradient(a, b),
            reference.slopes(lambda x: reference.smooth_l1(a, x), b),
        ),
    ),
    "kl": (unnormalised, losses.kl, reference.kl, lambda s, t: (reference.kl_gradient(s, t), None)),
}
PAIRWISE = ["contrastive", "sigmoid", "relational", "relational without self"]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n, d", [(1, 3), (2, 1), (7, 5), (33, 16)])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradients_equal_the_reference(name: str, n: int, d: int, dtype: torch.dtype) -> None:
    arguments, ours, theirs, gradient = LOSSES[name]
    tensors, close = [leaf(x, dtype) for x in arguments(n, d)], TOLERANCE[dtype]
    exact = [x.detach().double().numpy() if x.ndim == 2 else x.item() for x in tensors]
    loss = ours(*tensors)
    loss.backward()
    assert loss.shape == () and loss.dtype == dtype
    np.testing.assert_allclose(loss.item(), theirs(*exact), rtol=close, atol=close)
    for k, (tensor, expected) in enumerate(zip(tensors, gradient(*exact), strict=True)):
        assert (tensor.grad is None) == (expected is None), "a teacher gets no gradient"
        if expected is not None:
            # Only smooth L1 by its target is compared with differences, which are good to 1e-7.
            tolerance = max(close, 1e-7 if name == "smooth_l1" and k else 0)
            np.testing.assert_allclose(tensor.grad, np.atleast_1d(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "smooth_l1"])
def test_the_gradients_of_the_reference_equal_finite_differences(name: str) -> None:
    arguments, _, value, gradient = LOSSES[name]
    rows = [np.asarray(x) for x in arguments(4, 3)]
    for k, expected in enumerate(gradient(*rows)):
        if expected is not None:
            differences = reference.slopes(lambda x, k=k: float(value(*rows[:k], x, *rows[k + 1 :])), rows[k])
            np.testing.assert_allclose(expected, differences, atol=1e-6)


@pytest.mark.parametrize("name", [*PAIRWISE, "l2"])
def test_a_loss_of_some_rows_is_the_mean_over_them_against_all_columns(name: str) -> None:
    arguments, ours, theirs, _ = LOSSES[name]
    for rows in (slice(2, 5), slice(-1, None), slice(0, 1), slice(0, 100)):
        loss = ours(*map(leaf, arguments(7, 4)), rows=rows).item()
        np.testing.assert_allclose(loss, theirs(*arguments(7, 4), rows=range(7)[rows]), rtol=1e-12)


def test_sigmoid_of_large_logits_is_exact_in_float64() -> None:
    """PyTorch's softplus becomes linear at 20, with an error of 2e-9 there, which would break gradient checks."""
    a = torch.ones(1, 1, dtype=torch.float64)
    for logit in (-40.0, -20.01, -19.99, 19.99, 20.01, 40.0):
        loss = losses.sigmoid(a, a, leaf(-logit), leaf(0)).item()
        assert loss == pytest.approx(max(logit, 0) + math.log1p(math.exp(-abs(logit))), rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("pair", ["softmax", "sigmoid"])
@pytest.mark.parametrize("terms", [t for k in (1, 2, 3) for t in itertools.combinations(("fg", "fh", "gh"), k)])
def test_three_towers_equals_equation_1(terms: tuple[str, ...], pair: str, own: bool, weight: float) -> None:
    """The mean of the kept terms, with one temperature and bias or three."""
    rows = [unit_rows(6, 4, seed) for seed in range(6)]
    scales, biases = np.array([SCALE, 5.0, 20.0][: 3 if own else 1]), np.array([-10.0, -5.0, 1.0][: 3 if own else 1])
    tensors, scale, bias = [leaf(x) for x in rows], leaf(scales), leaf(biases)
    bias_argument = {} if pair == "softmax" else {"bias": bias}
    loss = losses.three_towers(*tensors, scale, weight=weight, terms=terms, **bias_argument)
    loss.backward()
    value, expected = 0.0, [*(np.zeros_like(x) for x in rows), np.zeros_like(scales), np.zeros_like(biases)]
    for term in terms:
        k = ("fg", "fh", "gh").index(term)
        share, which = (1 if term == "fg" else weight) / len(terms), k if own else 0
        numbers = [scales[which]] if pair == "softmax" else [scales[which], biases[which]]
        name = "contrastive" if pair == "softmax" else "sigmoid"
        value += share * getattr(reference, name)(rows[2 * k], rows[2 * k + 1], *numbers)
        by = getattr(reference, f"{name}_gradient")(rows[2 * k], rows[2 * k + 1], *numbers)
        expected[2 * k], expected[2 * k + 1] = share * by[0], share * by[1]
        expected[6][which] += share * by[2]
        expected[7][which] += share * by[3] if pair == "sigmoid" else 0
    np.testing.assert_allclose(loss.item(), value, rtol=1e-10)
    for tensor, by in zip((*tensors, scale, bias), expected, strict=True):
        np.testing.assert_allclose(0 if tensor.grad is None else tensor.grad, by, rtol=1e-10, atol=1e-10)


@st.composite
def batches(draw: st.DrawFn, sides: int = 2) -> tuple[list[np.ndarray], torch.dtype, int, slice]:
    """Unit rows, some equal (which tie) and some zero; a dtype, the size of a tile, and a range of rows."""
    n, d, seed = draw(st.integers(1, 17)), draw(st.integers(1, 9)), draw(st.integers(0, 99))
    rows = [unit_rows(n, d, seed + 1000 * k) for k in range(sides)]
    for side in rows:
        if draw(st.booleans()):
            side[n // 2 :] = side[: n - n // 2]
        if draw(st.booleans()):
            side[draw(st.integers(0, n - 1))] = 0
    if draw(st.booleans()):
        rows[1] = rows[0]
    start = draw(st.integers(0, n - 1))
    share = draw(st.sampled_from([slice(None), slice(start, draw(st.integers(start + 1, n)))]))
    return rows, draw(st.sampled_from(FLOATS)), draw(st.integers(1, 20)), share


@settings(deadline=None, max_examples=60)
@given(batches(4), st.floats(0, 100), st.floats(-30, 30), st.floats(0, 100))
def test_losses_equal_the_reference_for_any_batch(
    batch: tuple, scale: float, bias: float, teacher_scale: float
) -> None:
    """In float64 to 1e-10. In lower precision, logits near 100 have the error of 100 roundings, and gradients that
    times the scale; gradients of half-precision inputs are rounded once more at the end."""
    rows, dtype, tile, share = batch
    single, double = torch.promote_types(dtype, torch.float32), dtype == torch.float64
    f, g, p, q = (leaf(x, dtype) for x in rows)
    s, b, t = (leaf(x, single) for x in (scale, bias, teacher_scale))
    for loss, expected, leaves, gradient in (
        (losses.contrastive, reference.contrastive, (f, g, s), reference.contrastive_gradient),
        (losses.sigmoid, reference.sigmoid, (f, g, s, b), reference.sigmoid_gradient),
        (losses.relational, reference.relational, (f, g, p, q, s, t), relational_gradient),
    ):
        plain = [x.detach().double().numpy() if x.ndim == 2 else x.item() for x in leaves]
        absolute = 1e-10 if double else 1e-6 * max(1, scale, teacher_scale, abs(bias))
        part = loss(*leaves, rows=share, tile=tile).item()
        tolerance = 1e-10 if double else 1e-5
        np.testing.assert_allclose(part, expected(*plain, rows=range(len(f))[share]), rtol=tolerance, atol=absolute)
        whole = torch.autograd.grad(loss(*leaves, tile=tile), leaves, allow_unused=True)
        for by, exact in zip(whole, gradient(*plain), strict=True):
            if exact is not None:
                close = (1e-10, 1e-10) if double else (1e-5 + 2 * torch.finfo(by.dtype).eps, absolute * max(1, scale))
                np.testing.assert_allclose(by.double(), np.atleast_1d(exact), rtol=close[0], atol=close[1])


EXTREME = st.sampled_from([0.0, 1e-38, 1e-20, 1.0, 1e4, 1e30, 3e38, math.inf])
SHIFTS = st.sampled_from([-math.inf, -3e38, -1e30, -10.0, 0.0, 1e30, 3e38, math.inf])


@settings(deadline=None, max_examples=100)
@given(batches(4), EXTREME, SHIFTS, EXTREME, st.booleans())
def test_losses_and_gradients_are_never_nan(
    batch: tuple, scale: float, bias: float, teacher_scale: float, without_self: bool
) -> None:
    """A loss may be infinite, if its exact value is too large, but neither it nor a gradient is NaN."""
    rows, dtype, tile, share = batch
    sides, single = [leaf(x, dtype) for x in rows], torch.promote_types(dtype, torch.float32)
    s, b, t = (leaf(x, single) for x in (scale, bias, teacher_scale))
    for loss, leaves, more in (
        (losses.contrastive, (*sides[:2], s), {}),
        (losses.sigmoid, (*sides[:2], s, b), {}),
        (losses.relational, (*sides, s, t), {"without_self": without_self}),
    ):
        value = loss(*leaves, rows=share, tile=tile, **more)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        assert not value.isnan() and not any(x.isnan().any() for x in gradients if x is not None)


def test_the_cosine_loss_of_a_row_of_zeros_is_1_with_finite_gradients() -> None:
    a, b = leaf(np.zeros((2, 3))), leaf(unit_rows(2, 3, 1))
    loss = losses.cosine(a, b)
    gradients = torch.autograd.grad(loss, (a, b))
    assert loss.item() == 1 and all(x.isfinite().all() for x in gradients)


ONE = torch.ones(1)
LOSSES_OF_TWO_SIDES: dict[str, Callable[..., torch.Tensor]] = {
    "contrastive": lambda a, b, **more: losses.contrastive(a, b, ONE, **more),
    "sigmoid": lambda a, b, **more: losses.sigmoid(a, b, ONE, ONE, **more),
    "relational": lambda a, b, **more: losses.relational(a, b, a, a, ONE, ONE, **more),
    "relational of teachers": lambda a, b, **more: losses.relational(a, a, a, b, ONE, ONE, **more),
    "l2": losses.l2,
    "cosine": losses.cosine,
    "smooth_l1": losses.smooth_l1,
    "kl": losses.kl,
}


@pytest.mark.parametrize("loss", LOSSES_OF_TWO_SIDES.values(), ids=LOSSES_OF_TWO_SIDES)
def test_the_error_about_invalid_rows_gives_their_shapes_or_dtypes(loss: Callable[..., torch.Tensor]) -> None:
    for shapes in (((3, 2), (4, 2)), ((3, 2), (3, 5)), ((3,), (3,)), ((3, 2, 1), (3, 2, 1))):
        with pytest.raises(ValueError, match=re.escape(f"equal shape; got {shapes[0]} and {shapes[1]}")):
            loss(*map(torch.ones, shapes))
    with pytest.raises(ValueError, match="one row a sample on every side; got 0, 0"):
        loss(torch.ones(0, 2), torch.ones(0, 2))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="must be finite; side 2 of the loss holds NaN or infinity"):
            loss(torch.ones(3, 2), torch.tensor([[1.0, 1], [1, bad], [1, 1]]))
    with pytest.raises(
        ValueError, match="must be floating point on one device; got torch.float32 on cpu, torch.int64"
    ):
        loss(torch.ones(3, 2), torch.ones(3, 2).long())
    with pytest.raises(ValueError, match="one row a sample on every side; got 3, 4"):
        losses.relational(*[torch.ones(3, 2)] * 2, *[torch.ones(4, 2)] * 2, ONE, ONE)


@pytest.mark.parametrize("name", ["contrastive", "sigmoid", "relational", "l2"])
def test_the_error_about_an_invalid_row_range_or_tile_gives_it(name: str) -> None:
    for rows in (slice(2, 2), slice(3, 1), slice(4, None), slice(0, 4, 2), slice(None, None, -1)):
        with pytest.raises(
            ValueError, match=re.escape(f"rows must be a run of at least one of the 4 rows; got {rows}")
        ):
            LOSSES_OF_TWO_SIDES[name](torch.ones(4, 2), torch.ones(4, 2), rows=rows)
    for tile in (0, -3) if name != "l2" else ():
        with pytest.raises(ValueError, match=f"A tile has at least one row; got tile = {tile}"):
            LOSSES_OF_TWO_SIDES[name](torch.ones(4, 2), torch.ones(4, 2), tile=tile)


@pytest.mark.parametrize("shape", [(), (2,), (1, 1)])
def test_scales_and_biases_must_have_shape_1(shape: tuple[int, ...]) -> None:
    rows, bad = torch.ones(3, 2), torch.ones(shape)
    for name, loss in (
        ("scale", lambda: losses.contrastive(rows, rows, bad)),
        ("scale", lambda: losses.sigmoid(rows, rows, bad, ONE)),
        ("bias", lambda: losses.sigmoid(rows, rows, ONE, bad)),
        ("scale", lambda: losses.relational(rows, rows, rows, rows, bad, ONE)),
        ("teacher_scale", lambda: losses.relational(rows, rows, rows, rows, ONE, bad)),
        ("scale", lambda: losses.three_towers(*[rows] * 6, bad)),
        ("bias", lambda: losses.three_towers(*[rows] * 6, ONE, bias=bad)),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{name} must have shape (1,); got {shape}")):
            loss()


def test_the_error_about_invalid_terms_of_three_towers_names_them() -> None:
    for terms, message in (
        (("fg", "hf"), "The terms are fg, fh, gh; got 'fg', 'hf'"),
        ((), "none"),
        (["fh"] * 2, "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.three_towers(*[torch.ones(3, 2)] * 6, ONE, terms=terms)
