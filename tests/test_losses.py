"""Losses and objectives against the float64 reference: values, gradients, shares of rows, refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from reference import unit_heads, unit_rows

import losses
from losses.objective import TeacherEmbeddings
from losses.transfer import Transfer

SCALE = 1 / 0.07  # where training starts
# T of each objective with heads, and its gradient by the student's rows.
TERMS = {
    "l2": (reference.l2, reference.l2_gradient),
    "three_towers": (
        lambda a, b: reference.contrastive(a, b, SCALE),
        lambda a, b: reference.contrastive_gradient(a, b, SCALE)[0],
    ),
}


def leaf(x: np.ndarray | float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A tensor that collects a gradient; a number becomes [1]."""
    return torch.tensor(np.atleast_1d(x), dtype=dtype, requires_grad=True)


def batch(
    n: int, d: int, weights: tuple[float, ...] = (1.0,), rows: slice = slice(None)
) -> tuple[losses.Embeddings, list[torch.Tensor]]:
    """The same batch each time, as float64 leaves, and those leaves in a list."""
    image, text, scale = leaf(unit_rows(n, d, 1)), leaf(unit_rows(n, d, 2)), leaf(SCALE)
    teachers = tuple(TeacherEmbeddings(*map(leaf, head[:4]), weight=head.weight) for head in unit_heads(n, d, weights))
    own = [x for t in teachers for x in (t.image_h, t.teacher_f, t.text_h, t.teacher_g)]
    return losses.Embeddings(image, text, scale, teachers, rows), [image, text, scale, *own]


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("n, d", [(1, 3), (2, 1), (7, 5), (33, 16)])
def test_contrastive_is_equations_2_to_4(n: int, d: int, dtype: torch.dtype, close: float) -> None:
    f, g = unit_rows(n, d, 1), unit_rows(n, d, 2)
    a, b, scale = leaf(f, dtype), leaf(g, dtype), leaf(SCALE, dtype)
    loss = losses.contrastive(a, b, scale)
    loss.backward()
    assert loss.shape == () and loss.dtype == dtype
    np.testing.assert_allclose(loss.item(), reference.contrastive(f, g, SCALE), rtol=close, atol=close)
    for tensor, expected in zip((a, b, scale), reference.contrastive_gradient(f, g, SCALE), strict=True):
        np.testing.assert_allclose(tensor.grad, np.atleast_1d(expected), rtol=close, atol=close)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 33), st.integers(1, 17), st.floats(0.1, 100), st.integers(0, 99), st.booleans())
def test_losses_hold_for_any_batch(n: int, d: int, scale: float, seed: int, repeated: bool) -> None:
    """Also where samples occur twice, which makes right and wrong answers tie, and where rows are zero."""
    f, g = unit_rows(n, d, seed), unit_rows(n, d, seed + 1000)
    if repeated:
        f[n // 2 :], g[n // 2 :] = f[: n - n // 2], g[: n - n // 2]
        f[0] = 0
    a, b, s = leaf(f), leaf(g), leaf(scale)
    loss = losses.contrastive(a, b, s)
    loss.backward()
    np.testing.assert_allclose(loss.item(), reference.contrastive(f, g, scale), rtol=1e-10, atol=1e-10)
    for tensor, expected in zip((a, b, s), reference.contrastive_gradient(f, g, scale), strict=True):
        np.testing.assert_allclose(tensor.grad, np.atleast_1d(expected), rtol=1e-10, atol=1e-10)
    distance = losses.l2(a, b)
    np.testing.assert_allclose(distance.item(), reference.l2(f, g), rtol=1e-10, atol=1e-10)
    for gradient, sign in zip(torch.autograd.grad(distance, (a, b)), (1, -1), strict=True):
        np.testing.assert_allclose(gradient, sign * reference.l2_gradient(f, g), atol=1e-10)
    np.testing.assert_allclose(losses.l2(a.float(), b.float()).item(), distance.item(), rtol=1e-5, atol=1e-5)
    single = losses.contrastive(a.float(), b.float(), s.float()).item()
    # Logits near 100 carry an error of 100 float32 roundings.
    np.testing.assert_allclose(single, loss.item(), rtol=1e-5, atol=1e-6 * max(1, scale))


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("shares", [1, 2, 3, 6, 12])
def test_the_mean_over_equal_shares_is_the_whole(name: str, shares: int) -> None:
    """Values and gradients: what lets k processes compute what one would."""
    objective, step = losses.objective(name), 12 // shares

    def value_and_gradient(rows: slice) -> tuple[float, np.ndarray]:
        embeddings, leaves = batch(12, 5, (1.0, 0.5), rows)
        loss = objective(embeddings)["loss"]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        return loss.item(), np.concatenate([gradient.detach().flatten() for gradient in gradients])

    whole, gradient = value_and_gradient(slice(None))
    values, gradients = zip(*(value_and_gradient(slice(i, i + step)) for i in range(0, 12, step)), strict=True)
    np.testing.assert_allclose(np.mean(values), whole, rtol=1e-12)
    np.testing.assert_allclose(np.mean(gradients, axis=0), gradient, atol=1e-12)
    assert len({round(value, 9) for value in values}) == shares, "shares see different rows"


def test_a_share_is_the_mean_over_its_own_rows_against_all_columns() -> None:
    f, g, rows = unit_rows(7, 4, 1), unit_rows(7, 4, 2), slice(2, 5)
    own = losses.contrastive(leaf(f), leaf(g), leaf(SCALE), rows=rows), losses.l2(leaf(f), leaf(g), rows=rows)
    expected = reference.contrastive(f, g, SCALE, range(2, 5)), reference.l2(f, g, range(2, 5))
    np.testing.assert_allclose([loss.item() for loss in own], expected, rtol=1e-12)


def test_objectives_are_equations_1_and_5() -> None:
    embeddings, (image, text, scale, *head) = batch(8, 6)
    rows = unit_rows(8, 6, 1), unit_rows(8, 6, 2), *unit_heads(8, 6, (1.0,))
    both = losses.three_towers(image, text, *head, scale), losses.objective("three_towers")(embeddings)["loss"]
    np.testing.assert_allclose([loss.item() for loss in both], reference.three_towers(*rows, SCALE), rtol=1e-12)
    transfer = losses.objective("l2", weight=0.25)(embeddings)["loss"].item()
    np.testing.assert_allclose(transfer, reference.l2_transfer(*rows, SCALE, 0.25), rtol=1e-12)


@pytest.mark.parametrize("weight, rows", [(2.5, slice(None)), (0.0, slice(None)), (1.0, slice(1, 4))])
def test_the_function_and_the_objective_of_three_towers_agree(weight: float, rows: slice) -> None:
    embeddings, (image, text, scale, *head) = batch(8, 6, rows=rows)
    function = losses.three_towers(image, text, *head, scale, weight=weight, rows=rows).item()
    objective = losses.objective("three_towers", weight=weight)(embeddings)["loss"].item()
    np.testing.assert_allclose(function, objective, rtol=1e-12)
    assert abs(function - losses.three_towers(image, text, *head, scale).item()) > 1e-3


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("weights", [(), (0.3,), (1.0, 0.0), (2.0, 0.5, 0.1)])
def test_several_teachers_and_their_weights(name: str, weights: tuple[float, ...]) -> None:
    (embeddings, leaves), own, (term, slope) = batch(6, 4, weights), unit_heads(6, 4, weights), TERMS[name]
    terms = losses.objective(name, weight=1.7)(embeddings)
    expected = reference.transfer(term, unit_rows(6, 4, 1), unit_rows(6, 4, 2), own, SCALE, 1.7)
    np.testing.assert_allclose(terms["loss"].item(), expected, rtol=1e-12)
    for key, side in (("fh", 0), ("gh", 2)):
        parts = sum(head.weight * term(head[side], head[side + 1]) for head in own)
        np.testing.assert_allclose(terms[key].item(), parts, rtol=1e-12)
    terms["loss"].backward()
    for head, text_h in zip(own, leaves[5::4], strict=True):
        share = 1.7 * head.weight / (1 + 2 * len(own))
        np.testing.assert_allclose(text_h.grad, share * slope(head.text_h, head.teacher_g), atol=1e-12)


@pytest.mark.parametrize("name", losses.names())
def test_only_the_loss_carries_a_gradient(name: str) -> None:
    terms = losses.objective(name)(batch(4, 3)[0])
    assert terms.pop("loss").requires_grad
    assert all(term.shape == () and not term.requires_grad for term in terms.values())
    assert set(terms) == (set() if name == "contrastive" else {"fg", "fh", "gh"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", losses.names())
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    low = [leaf(x, dtype) for x in (unit_rows(8, 6, 1), unit_rows(8, 6, 2), SCALE)]
    head = [leaf(x, dtype) for x in unit_heads(8, 6, (1.0,))[0][:4]]
    of = losses.objective(name)
    loss = of(losses.Embeddings(*low, (TeacherEmbeddings(*head),)))["loss"]
    up = (TeacherEmbeddings(*(x.float() for x in head)),)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, of(losses.Embeddings(*(x.float() for x in low), up))["loss"])


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 5)), ((3,), (3,)), ((3, 2, 1), (3, 2, 1))])
@pytest.mark.parametrize("loss", [lambda a, b: losses.contrastive(a, b, torch.ones(1)), losses.l2])
def test_shapes_that_do_not_fit_are_named(loss: Callable, shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"equal shape; got {shapes[0]} and {shapes[1]}")):
        loss(*map(torch.ones, shapes))


@pytest.mark.parametrize("shape", [(), (2,), (1, 1)])
def test_the_scale_must_have_shape_1(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"scale must have shape (1,); got {shape}")):
        losses.contrastive(torch.ones(3, 2), torch.ones(3, 2), torch.ones(shape))


def test_every_module_with_an_objective_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f.stem: f.read_text() for f in Path(losses.__file__).parent.glob("*.py")}
    known = sorted(name for name, text in files.items() if "\nOBJECTIVE = " in text)
    assert losses.names() == known
    (tmp_path / "added.py").write_text("from losses.l2 import L2Transfer\nOBJECTIVE = L2Transfer\n")
    (tmp_path / "helper.py").write_text("")
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    assert losses.names() == sorted(["added", *known])
    assert losses.objective("added", weight=2.0) == losses.objective("l2", weight=2.0)


def test_refusals_of_objectives_say_what_is_wrong() -> None:
    with pytest.raises(LookupError, match="no objective 'three_tower'. Did you mean 'three_towers'?"):
        losses.objective("three_tower")
    with pytest.raises(LookupError, match="Known: contrastive, l2, three_towers"):
        losses.objective("zzz")
    for name, options in (("contrastive", {"weight": 1}), ("l2", {"wait": 1}), ("l2", {"weight": -0.1})):
        with pytest.raises(ValidationError, match=next(iter(options))):
            losses.objective(name, **options)
    for unfinished in (losses.Objective(), Transfer()):
        with pytest.raises(TypeError, match=f"{type(unfinished).__name__} does not say"):
            unfinished(batch(2, 2)[0])
