"""Tiled losses: the same values as with the whole matrix of logits, in less memory than that matrix.

Against plain PyTorch with autograd on whole matrices, and against open_clip: in float64 to 1e-10, in float32 to 1e-5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from reference import unit_rows
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import losses
from losses import tiles

ROWS = slice(None)


def plain_contrastive(
    a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, rows: slice = ROWS, tile: Any = None
) -> torch.Tensor:
    right = torch.arange(len(a))[rows]
    logits = scale * a @ b.T
    return (F.cross_entropy(logits[rows], right) + F.cross_entropy(logits.T[rows], right)) / 2


def plain_sigmoid(
    a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, rows: slice = ROWS, tile: Any = None
) -> torch.Tensor:
    signs = 2 * torch.eye(len(a), dtype=a.dtype) - 1
    return -F.logsigmoid(signs * (scale * a @ b.T + bias))[rows].sum(dim=1).mean()


def plain_relational(
    a: torch.Tensor,
    b: torch.Tensor,
    teacher_a: torch.Tensor,
    teacher_b: torch.Tensor,
    scale: torch.Tensor,
    teacher_scale: torch.Tensor,
    without_self: bool = False,
    rows: slice = ROWS,
    tile: Any = None,
) -> torch.Tensor:
    both = scale * a @ b.T, (teacher_scale * teacher_a @ teacher_b.T).detach()
    if without_self:
        if len(a) == 1:
            return 0 * both[0].sum()
        others = ~torch.eye(len(a), dtype=torch.bool)
        rows_first, columns_first = ([x[others].view(len(a), -1) for x in xs] for xs in (both, [x.T for x in both]))
    else:
        rows_first, columns_first = both, [x.T for x in both]
    directions = [[x[rows].log_softmax(dim=1) for x in xs] for xs in (rows_first, columns_first)]
    return sum(F.kl_div(*direction, log_target=True, reduction="batchmean") for direction in directions) / 2


def without_self(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *inputs, **more: loss(*inputs, without_self=True, **more)


# The tiled loss, the plain one, the number of matrices it takes, and the values of its scales and biases.
LOSSES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], int, tuple[float, ...]]] = {
    "contrastive": (losses.contrastive, plain_contrastive, 2, (14.3,)),
    "contrastive of large logits": (losses.contrastive, plain_contrastive, 2, (75.0,)),  # another summation, see below
    "sigmoid": (losses.sigmoid, plain_sigmoid, 2, (14.3, -10.0)),
    "relational": (losses.relational, plain_relational, 4, (14.3, 9.0)),
    "relational without self": (without_self(losses.relational), without_self(plain_relational), 4, (14.3, 9.0)),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def inputs(name: str, n: int, d: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Arguments of a loss, the same each time: unit rows, and scales and biases, as leaf tensors."""
    generator = torch.Generator().manual_seed(n)
    _, _, sides, numbers = LOSSES[name]
    rows = [F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1) for _ in range(sides)]
    return [x.to(dtype).requires_grad_() for x in (*rows, *(torch.tensor([number]) for number in numbers))]


def loss_and_gradients(
    loss: Callable[..., torch.Tensor], leaves: list[torch.Tensor], **more: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A loss, and the gradients of 3 times the loss by all leaves; zeros where there is none."""
    value = loss(*leaves, **more)
    return value.detach(), list(torch.autograd.grad(3 * value, leaves, materialize_grads=True))


def shares(n: int) -> list[slice]:
    return [ROWS] if n == 1 else [ROWS, slice(0, n // 2), slice(n // 3, n // 3 + 1), slice(n // 2, n)]


@pytest.mark.parametrize("n, d", [(1, 3), (2, 1), (6, 4), (13, 5)])
@every_loss
def test_a_tiled_loss_equals_that_of_the_whole_matrix(name: str, n: int, d: int) -> None:
    """For tiles of one row, smaller last tiles, one tile, a tile larger than the batch, and for shares of rows."""
    ours, plain, *_ = LOSSES[name]
    leaves = inputs(name, n, d)
    for rows in shares(n):
        expected = loss_and_gradients(plain, leaves, rows=rows)
        for tile in (1, 2, 3, 5, 7, n, n + 5, None):
            torch.testing.assert_close(
                loss_and_gradients(ours, leaves, rows=rows, tile=tile),
                expected,
                rtol=1e-10,
                atol=1e-10,
                msg=f"{rows}, {tile}",
            )


@pytest.mark.parametrize("scale", [0.0, 1.0, 59.0, 59.9, 59.99, 60.01, 61.0, 300.0])
def test_both_summations_of_the_contrastive_loss_are_exact(scale: float) -> None:
    """The contrastive loss has two algorithms to sum exponentials: one for logits up to 60, one for larger ones."""
    sides, number = inputs("contrastive", 13, 5)[:2], torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    for x in (sides[0], sides[1].detach().clone()):
        leaves = [sides[0], x.detach().requires_grad_(), number]  # with equal sides, matching pairs reach the bound
        found, expected = (
            loss_and_gradients(losses.contrastive, leaves, tile=4),
            loss_and_gradients(plain_contrastive, leaves),
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n, d, tile", [(13, 5, 4), (64, 32, 24), (65, 32, None)])
@every_loss
def test_a_tiled_loss_in_float32_is_close_to_float64(name: str, n: int, d: int, tile: int | None) -> None:
    """Given the same rounded inputs: rounding errors must not accumulate over tiles."""
    ours, plain, *_ = LOSSES[name]
    leaves = inputs(name, n, d, torch.float32)
    value, gradients = loss_and_gradients(ours, leaves, tile=tile)
    expected, slopes = loss_and_gradients(plain, [x.detach().double().requires_grad_() for x in leaves])
    assert all(x.dtype == torch.float32 for x in (value, *gradients))
    for x, exact in zip((value, *gradients), (expected, *slopes), strict=True):
        torch.testing.assert_close(x.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n, d", [(1, 4), (3, 2), (16, 8), (65, 32)])
def test_losses_and_gradients_equal_those_of_open_clip(n: int, d: int, seed: int, dtype: torch.dtype) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for ours, theirs, numbers in (
        (losses.contrastive, ClipLoss(), (14.3,)),
        (losses.contrastive, ClipLoss(), (100.0,)),
        (losses.sigmoid, SigLipLoss(), (10.0, -10.0)),
        (losses.sigmoid, SigLipLoss(), (14.3, 2.0)),
    ):
        given = [unit_rows(n, d, seed), unit_rows(n, d, seed + 10), *([x] for x in numbers)]
        sides = [[torch.tensor(x, dtype=dtype, requires_grad=True) for x in given] for _ in range(2)]
        values = [loss(*side) for loss, side in zip((ours, theirs), sides, strict=True)]
        for value in values:
            value.backward()
        torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance)
        for mine, other in zip(*sides, strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [ROWS, slice(3, 9)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_loss
def test_half_precision_is_float32_rounded_once(name: str, dtype: torch.dtype, rows: slice) -> None:
    """Bit for bit: the loss, and the gradients, which have the dtype of the inputs."""
    leaves = inputs(name, 13, 5, dtype)
    single = [x.detach().float().requires_grad_() for x in leaves]
    value, gradients = loss_and_gradients(LOSSES[name][0], leaves, tile=4, rows=rows)
    expected, slopes = loss_and_gradients(LOSSES[name][0], single, tile=4, rows=rows)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    for k, (gradient, slope) in enumerate(zip(gradients, slopes, strict=True)):
        assert gradient.dtype == dtype and torch.equal(gradient, slope.to(dtype)), f"gradient {k}"


UNDER_AUTOCAST: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    **{name: (ours, name) for name, (ours, *_) in LOSSES.items()},
    "l2": (lambda a, b, scale: losses.l2(a, b) * scale, "contrastive"),
    "cosine": (lambda a, b, scale: losses.cosine(a, b) * scale, "contrastive"),
    "smooth_l1": (lambda a, b, scale: losses.smooth_l1(a, b) * scale, "contrastive"),
    "kl": (lambda a, b, scale: losses.kl(a, b) * scale, "contrastive"),
    "three_towers": (lambda a, b, p, q, s, t: losses.three_towers(a, b, a, p, b, q, s), "relational"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", UNDER_AUTOCAST)
def test_autocast_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    """Whether around the loss and its backward, or around the loss only."""
    loss, like = UNDER_AUTOCAST[name]
    leaves = inputs(like, 13, 5, dtype)
    expected = loss_and_gradients(loss, leaves)
    with torch.autocast("cpu", torch.bfloat16):
        assert (leaves[0] @ leaves[1].T).dtype == (dtype if dtype == torch.float64 else torch.bfloat16), (
            "has an effect"
        )
        inside = loss_and_gradients(loss, leaves)
        value = loss(*leaves)
    outside = value.detach(), torch.autograd.grad(3 * value, leaves, materialize_grads=True)
    for found in (inside, outside):
        assert torch.equal(found[0], expected[0]) and all(map(torch.equal, found[1], expected[1]))


@pytest.mark.parametrize("rows", [ROWS, slice(1, 3)])
@pytest.mark.parametrize("tile", [2, 3, None])
@every_loss
def test_gradients_pass_gradcheck(name: str, tile: int | None, rows: slice) -> None:
    ours, _, sides, _ = LOSSES[name]
    leaves = inputs(name, 4, 2)
    without_gradient = {2, 3, 5} if sides == 4 else set()
    arguments = [x if k not in without_gradient else x.detach() for k, x in enumerate(leaves)]
    assert torch.autograd.gradcheck(lambda *x: ours(*x, rows=rows, tile=tile), arguments)


class OperationRecorder(TorchDispatchMode):
    """Records of all operations, forward and backward: the size of the largest tensor, the maximum number of elements
    in memory at a time, and the number of matrix products."""

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.largest = self.most = self.products = 0
        self.given = {StorageWeakRef(x.untyped_storage()) for x in given}
        self.alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
                storage = x.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference not in self.given:
                    self.alive[reference] = storage.nbytes() // x.element_size()
        self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
        self.most = max(self.most, sum(self.alive.values()))
        return out


def record(loss: Callable[..., torch.Tensor], leaves: list[torch.Tensor], **more: Any) -> OperationRecorder:
    with OperationRecorder(leaves) as recorder:
        loss(*leaves, **more).backward()
    return recorder


@pytest.mark.parametrize("rows", [ROWS, slice(64, 200)])
@every_loss
def test_a_tiled_loss_never_stores_a_matrix_of_all_pairs(name: str, rows: slice) -> None:
    """No tensor is larger than a tile or a matrix of rows, and only a few exist at a time: tiles are not stored."""
    n, d, tile = 257, 8, 32
    ours, plain, sides, _ = LOSSES[name]
    largest, most = max(tile * tile, n * d), 6 * tile * tile + 2 * sides * n * d
    recorder = record(ours, inputs(name, n, d), rows=rows, tile=tile)
    assert recorder.largest <= largest and recorder.most <= most
    whole = record(plain, inputs(name, n, d), rows=rows)
    assert whole.largest > largest and whole.most > most, "the recorder detects a whole matrix"


@pytest.mark.parametrize("requires_gradient", [w for w in itertools.product([False, True], repeat=3) if any(w)])
@pytest.mark.parametrize("rows", [ROWS, slice(0, 4)])
@pytest.mark.parametrize("name", ["contrastive", "sigmoid"])
def test_a_gradient_that_is_not_required_costs_no_matrix_product(
    name: str, rows: slice, requires_gradient: tuple[bool, bool, bool]
) -> None:
    """A tile costs one product forward, one backward, and one for each side that requires a gradient; the gradient of
    the scale is computed from the product for ``a``."""
    leaves = inputs(name, 8, 3)
    for leaf, want in zip(leaves, (*requires_gradient, False), strict=False):
        leaf.requires_grad_(want)
    recorder = record(LOSSES[name][0], leaves, rows=rows, tile=4)
    assert [x.grad is not None for x in leaves[:3]] == list(requires_gradient)
    by_a, by_b, by_scale = requires_gradient
    if name == "contrastive" and rows != ROWS:
        # Two tiles in the direction a to b, and two from b to a, where the roles of ``a`` and ``b`` are exchanged.
        assert recorder.products == 2 * (2 + (by_a or by_scale) + by_b) + 2 * (2 + (by_b or by_scale) + by_a)
    else:
        assert recorder.products == (4 if rows == ROWS else 2) * (2 + (by_a or by_scale) + by_b)


@every_loss
def test_infinite_logits_give_no_nan(name: str) -> None:
    """With an infinite scale, logits overflow float32 and must be bounded: ∞ − ∞ would be NaN."""
    given, sides = inputs(name, 5, 2, torch.float32), LOSSES[name][2]
    rows, scale = [(3 * x.detach()).requires_grad_() for x in given[:sides]], torch.full((1,), torch.inf)
    value = LOSSES[name][0](*rows, scale.requires_grad_(), *given[sides + 1 :], tile=2)
    gradients = torch.autograd.grad(value, [*rows[:2], scale])
    assert not any(x.isnan().any() for x in (value, *gradients))


def test_the_default_tile_size_depends_on_the_device() -> None:
    assert tiles.tile_shape(None, torch.device("cpu")) == (1024, 4096)
    assert tiles.tile_shape(None, torch.device("cuda")) == (4096, 4096)
    assert tiles.tile_shape(7, torch.device("cuda")) == (7, 7)
    for side in (0, -1):
        with pytest.raises(ValueError, match=f"A tile has at least one row; got tile = {side}"):
            tiles.tile_shape(side, torch.device("cpu"))
