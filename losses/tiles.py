"""The N × N matrix of logits, one tile at a time, so that the whole matrix is never in memory.

The forward of a loss over all pairs keeps only sums of length N. Its backward computes each tile of logits again,
replaces the logits by the gradient of the loss by them, and adds the tile's part to the gradients of the embeddings.
With one pass through the tiles in the forward, as the contrastive and the sigmoid loss have, this takes four matrix
products (the logits twice, and one for the gradient of each side), where autograd takes six on two whole matrices, the
logits and their transpose. The memory grows with N, not with N².
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

# Rows and columns of a tile by device type, large enough for matrix products at full speed. On a CPU a wide tile is
# faster than a square one with as many elements.
TILE_SHAPES = {"cpu": (1024, 4096)}
DEFAULT_TILE_SHAPE = (4096, 4096)
# Element-wise operations go through a tile in bands of at most this many elements, by device type: a band stays in a
# CPU's cache, and the temporary tensors that the operations allocate are no larger than a band.
BAND_ELEMENTS = {"cpu": 1 << 18}
DEFAULT_BAND_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Tile:
    """One tile of the matrix ``scale · a bᵀ``.

    Attributes:
        rows, columns: its position in the matrix; row 0 is the first row of ``a``, column 0 the first row of ``b``.
        logits: [rows, columns]; may be overwritten, and is only valid until the next tile is computed.
        offset: the diagonal of the tile on which the positive pairs lie, counted as in ``torch.diagonal``; if it is
            outside the tile, the tile has none of them.
    """

    rows: slice
    columns: slice
    logits: torch.Tensor
    offset: int

    def positive_pairs(self) -> tuple[slice, torch.Tensor]:
        """The positive pairs in this tile: their rows of ``a``, and a writable [pairs] view of their logits."""
        if not -self.logits.shape[0] < self.offset < self.logits.shape[1]:
            return slice(0, 0), self.logits[:0, 0]
        diagonal = self.logits.diagonal(self.offset)
        first = self.rows.start + max(0, -self.offset)
        return slice(first, first + len(diagonal)), diagonal

    def bands(self) -> Iterator[Tile]:
        """The tile cut into bands of full rows, for element-wise operations; their logits are views of the tile's."""
        max_elements = BAND_ELEMENTS.get(self.logits.device.type, DEFAULT_BAND_ELEMENTS)
        height = max(1, max_elements // self.logits.shape[1])
        for first in range(0, len(self.logits), height):
            logits, start = self.logits[first : first + height], self.rows.start + first
            yield Tile(slice(start, start + len(logits)), self.columns, logits, self.offset + first)


def logit_tiles(
    a: torch.Tensor,
    b: torch.Tensor,
    scale: torch.Tensor,
    first_row: int,
    shape: tuple[int, int],
    bound: float = torch.inf,
) -> Iterator[Tile]:
    """Every tile of ``scale · a bᵀ``, all tiles of the first columns before those of the next.

    Args:
        a: [n, D], the rows ``first_row`` to ``first_row + n`` of the batch.
        b: [N, D], in the dtype of ``a``.
        scale: [1], from :func:`clamp_scale`, in the dtype of ``a``.
        first_row: row i of ``a`` and row ``first_row + i`` of ``b`` are a positive pair.
        shape: rows and columns of a tile; the last tiles may have fewer.
        bound: no logit is larger in absolute value, from :func:`logit_bound`; infinity or NaN if unknown.
    """
    limit, (height, width) = clamp_limit(scale.dtype), shape
    buffer = scale.new_empty(min(height, len(a)) * min(width, len(b)))
    for column in range(0, len(b), width):
        scaled_b = b[column : column + width] * scale
        for row in range(0, len(a), height):
            a_rows = a[row : row + height]
            logits = buffer[: len(a_rows) * len(scaled_b)].view(len(a_rows), len(scaled_b))
            torch.mm(a_rows, scaled_b.T, out=logits)
            if not bound <= limit:  # also where the bound is NaN
                # An infinite logit would make the loss ∞ − ∞.
                logits.clamp_(-limit, limit)
            rows, columns = slice(row, row + logits.shape[0]), slice(column, column + logits.shape[1])
            yield Tile(rows, columns, logits, first_row + row - column)


class Gradients:
    """The gradients of ``a``, ``b`` and the scale, summed up over the tiles.

    Args:
        a, b: [n, D] and [N, D], as in :func:`logit_tiles`.
        scale: [1], as the caller gave it: its gradient has its dtype.
        needed: for a, b and scale, whether its gradient is needed.
    """

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, needed: Sequence[bool]) -> None:
        self.a, self.b, self.scale, self.needed = a, b, scale, needed[:3]
        self.clamped_scale = clamp_scale(scale, a.dtype)
        # With g the gradient of the logits, that of ``a`` is scale · g b, and that of the scale is
        # Σ_ij g_ij a_i·b_j = Σ_i a_i · (g b)_i: both come from the one product g b.
        self.grad_a = torch.zeros_like(a) if needed[0] or needed[2] else None
        self.grad_b = torch.zeros_like(b) if needed[1] else None

    def add(self, tile: Tile) -> None:
        """Add the part of one tile, in which the gradient of the logits has replaced the logits."""
        if self.grad_a is not None:
            self.grad_a[tile.rows].addmm_(tile.logits, self.b[tile.columns])
        if self.grad_b is not None:
            self.grad_b[tile.columns].addmm_(tile.logits.T, self.a[tile.rows])

    def scaled(self, weight: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The gradients of a, b and scale, multiplied by a scalar; None where not needed. To be called once."""
        grad_scale = None
        if self.needed[2] and self.grad_a is not None:
            total = torch.stack(
                [(x * y).sum() for x, y in zip(self.grad_a.split(4096), self.a.split(4096), strict=True)]
            )
            grad_scale = (weight * total.sum()).view(1).to(self.scale.dtype)
        multiplier = self.clamped_scale * weight
        grad_a = self.grad_a.mul_(multiplier) if self.needed[0] and self.grad_a is not None else None
        grad_b = self.grad_b.mul_(multiplier) if self.grad_b is not None else None
        return grad_a, grad_b, grad_scale


def to_accumulation_dtype(*embeddings: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All tensors in the dtype in which losses are computed: float32, or float64 if one of them is float64.

    The conversion is part of the autograd graph, so a gradient in half precision is rounded only once, when it is
    complete.
    """
    dtype = torch.float32
    for x in embeddings:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in embeddings)


def clamp_scale(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The scale [1], detached, in the dtype of the embeddings, clamped to ± :func:`clamp_limit`."""
    return scale.detach().to(dtype).clamp(-clamp_limit(dtype), clamp_limit(dtype))


def logit_bound(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> float:
    """An upper bound on the absolute value of every logit ``scale · a_i·b_j``, by the Cauchy–Schwarz inequality.

    Infinity or NaN where the bound itself overflows.
    """
    largest_norms = [x.detach().norm(dim=1).max() for x in (a, b)]
    return 1.001 * float(scale.abs() * largest_norms[0] * largest_norms[1])  # 0.1 % more, for rounding errors


def clamp_limit(dtype: torch.dtype) -> float:
    """Scales and logits are clamped to ± this limit: sums and differences of a few such logits are still finite."""
    return torch.finfo(dtype).max / 8


def tile_shape(side: int | None, device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile: a square of the given side, or by default the shape that is fast on the device.

    Raises:
        ValueError: if the side is not positive.
    """
    if side is not None and side < 1:
        raise ValueError(f"A tile has at least one row; got tile = {side}.")
    return (side, side) if side else TILE_SHAPES.get(device.type, DEFAULT_TILE_SHAPE)


def autocast_disabled(device: torch.device) -> AbstractContextManager[None]:
    """A context without autocast, which would compute logits in bfloat16: one near 100 would be wrong by 0.25."""
    return torch.autocast(device.type, enabled=False)
