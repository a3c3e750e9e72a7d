"""The N × N matrix of similarities, a tile at a time, so that it never exists as a whole.

A loss over all pairs runs through the tiles once in its forward, keeping sums of length N, and once more in its
backward, where each tile of logits is computed anew, turned into its slope, and spent on the gradients of the
embeddings. That is four matrix products instead of the six of two whole matrices under autograd, and memory that
grows with N, not with N².
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

# Rows and columns of a tile, large enough for matrix products at full speed. On a CPU a wide one is faster than a
# square one of as many numbers.
SHAPE = {"cpu": (1024, 4096)}
ELSEWHERE = (4096, 4096)
# What is done number by number is done in bands of so many numbers: they stay in a CPU's cache, and what they need
# beside the logits is small.
BAND = {"cpu": 1 << 18}
BAND_ELSEWHERE = 1 << 22


@dataclass(frozen=True)
class Tile:
    """One tile of the matrix ``scale · a bᵀ``.

    Attributes:
        rows, columns: where it lies; rows count from the first row of ``a``.
        logits: [rows, columns], free to be overwritten; gone with the next tile.
        offset: of the tile's share of the matching pairs, a diagonal in the sense of ``torch.diagonal``.
    """

    rows: slice
    columns: slice
    logits: torch.Tensor
    offset: int

    def matching(self) -> tuple[slice, torch.Tensor]:
        """The matching pairs in this tile: which rows of ``a``, and a writable view of their entries."""
        if not -self.logits.shape[0] < self.offset < self.logits.shape[1]:
            return slice(0, 0), self.logits[:0, 0]
        diagonal = self.logits.diagonal(self.offset)
        first = self.rows.start + max(0, -self.offset)
        return slice(first, first + len(diagonal)), diagonal

    def bands(self) -> Iterator[Tile]:
        """The tile cut across its rows, for work that goes number by number."""
        most = BAND.get(self.logits.device.type, BAND_ELSEWHERE)
        height = max(1, most // self.logits.shape[1])
        for first in range(0, len(self.logits), height):
            logits, start = self.logits[first : first + height], self.rows.start + first
            yield Tile(slice(start, start + len(logits)), self.columns, logits, self.offset + first)


def tiles(
    a: torch.Tensor,
    b: torch.Tensor,
    factor: torch.Tensor,
    start: int,
    shape: tuple[int, int],
    reach: float = torch.inf,
) -> Iterator[Tile]:
    """Every tile of ``factor · a bᵀ``, column by column, in the dtype of ``factor``.

    Args:
        a: [n, D], rows ``start`` to ``start + n`` of the batch, in the dtype of ``factor``.
        b: [N, D], as ``a``.
        factor: [1], see :func:`factor`.
        start: row i of ``a`` matches row ``start + i`` of ``b``.
        shape: rows and columns of a tile; those at the edges may have fewer.
        reach: see :func:`reach`.
    """
    most, (height, width) = largest(factor.dtype), shape
    buffer = factor.new_empty(min(height, len(a)) * min(width, len(b)))
    for c in range(0, len(b), width):
        others = b[c : c + width] * factor
        for r in range(0, len(a), height):
            some = a[r : r + height]
            logits = buffer[: len(some) * len(others)].view(len(some), len(others))
            torch.mm(some, others.T, out=logits)
            if not reach <= most:
                # An infinite logit would make the loss ∞ − ∞.
                logits.clamp_(-most, most)
            rows, columns = slice(r, r + logits.shape[0]), slice(c, c + logits.shape[1])
            yield Tile(rows, columns, logits, start + r - c)


class Gradients:
    """What the slopes of all tiles add up to: the gradients of ``a``, ``b`` and the scale.

    Args:
        a, b: as in :func:`tiles`.
        scale: [1].
        wanted: whether the gradients of a, b and scale are asked for.
    """

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, wanted: Sequence[bool]) -> None:
        self.a, self.b, self.scale, self.wanted = a, b, scale, wanted[:3]
        self.factor = factor(scale, a.dtype)
        # The scale's gradient Σ slope_ij · a_i·b_j = Σ a_i · (slope b)_i comes out of a's for nothing.
        self.by_a = torch.zeros_like(a) if wanted[0] or wanted[2] else None
        self.by_b = torch.zeros_like(b) if wanted[1] else None

    def add(self, tile: Tile) -> None:
        """Spend one tile, whose logits have become the loss's slopes by them."""
        if self.by_a is not None:
            self.by_a[tile.rows].addmm_(tile.logits, self.b[tile.columns])
        if self.by_b is not None:
            self.by_b[tile.columns].addmm_(tile.logits.T, self.a[tile.rows])

    def of(self, weight: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The gradients by a, b and scale, times a scalar."""
        by_scale = None
        if self.wanted[2] and self.by_a is not None:
            total = torch.stack(
                [(x * y).sum() for x, y in zip(self.by_a.split(4096), self.a.split(4096), strict=True)]
            )
            by_scale = (weight * total.sum()).view(1).to(self.scale.dtype)
        times = self.factor * weight
        by_a = self.by_a.mul_(times) if self.wanted[0] and self.by_a is not None else None
        by_b = self.by_b.mul_(times) if self.by_b is not None else None
        return by_a, by_b, by_scale


def accumulated(*rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows in what a loss is computed in: float32, or float64 where any of them is.

    Autograd then rounds a gradient to a half precision once, after everything has been added up.
    """
    dtype = torch.float32
    for x in rows:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in rows)


def factor(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The scale as tiles use it: finite, in the dtype of the rows."""
    return scale.detach().to(dtype).clamp(-largest(dtype), largest(dtype))


def reach(a: torch.Tensor, b: torch.Tensor, factor: torch.Tensor) -> float:
    """No logit is larger in absolute value, by Cauchy and Schwarz; infinity or NaN where that overflows."""
    longest = [x.detach().norm(dim=1).max() for x in (a, b)]
    return 1.001 * float(factor.abs() * longest[0] * longest[1])  # a thousandth for rounding


def largest(dtype: torch.dtype) -> float:
    """A bound on logits that leaves room to add and subtract a few of them."""
    return torch.finfo(dtype).max / 8


def shape(asked: int | None, device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile: a square of the side asked for, or what suits the device.

    Raises:
        ValueError: if it is not positive.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"A tile has at least one row; got tile = {asked}.")
    return (asked, asked) if asked else SHAPE.get(device.type, ELSEWHERE)


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Inside, autocast leaves matrix products alone: in bfloat16 a logit near 100 would be wrong by 0.25."""
    return torch.autocast(device.type, enabled=False)
