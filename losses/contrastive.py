"""The symmetric softmax contrastive loss."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from losses import tiles
from losses.rows import WHOLE, check_number, check_pair, share


def contrastive(
    a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, *, rows: slice = WHOLE, tile: int | None = None
) -> torch.Tensor:
    """Bidirectional InfoNCE between two towers.

    ``½ (L_{a→b} + L_{b→a})`` where ``L_{a→b}`` is the cross-entropy of picking ``b_i`` for ``a_i`` among
    all N candidates. Tiled: the N × N logits never exist at once, neither here nor in the backward.

    Args:
        a: [N, D] unit rows of any float type, one tower's embeddings of the global batch.
        b: [N, D] unit rows, the other tower's; row i matches row i of ``a``.
        scale: [1], the inverse temperature 1/τ, ≥ 0; infinity counts as a very large number.
        rows: the rows of the batch this process answers for; default all.
        tile: side of a tile; default one that suits the device.

    Returns:
        Scalar float32 (float64 for float64 inputs): the mean over ``rows``.

    Raises:
        ValueError: if the shapes do not fit or an embedding is not finite.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 2–4; Radford et al., CLIP, arXiv 2103.00020.
    """
    check_pair(a, b)
    check_number("scale", scale)
    shape, mine = tiles.shape(tile, a.device), share(rows, len(a))
    a, b = tiles.accumulated(a, b)
    scale = scale.to(a.dtype)
    loss: torch.Tensor
    if mine == slice(0, len(a)):
        loss = _Picking.apply(a, b, scale, 0, True, shape)
        return loss
    # A share needs its rows of the matrix and its rows of the transpose: two matrices without a common tile.
    a_to_b = _Picking.apply(a[mine], b, scale, mine.start, False, shape)
    b_to_a = _Picking.apply(b[mine], a, scale, mine.start, False, shape)
    loss = (a_to_b + b_to_a) / 2
    return loss


class _Picking(torch.autograd.Function):
    """Mean cross-entropy of picking ``b_{start+i}`` for ``a_i``; with ``both``, averaged with the way back."""

    @staticmethod
    def forward(
        ctx: Any, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, start: int, both: bool, shape: tuple[int, int]
    ) -> torch.Tensor:
        factor = tiles.factor(scale, a.dtype)
        reach = tiles.reach(a, b, factor)
        way = Near() if reach <= NEAR else Far()
        rows, columns = way.start(factor, len(a)), way.start(factor, len(b))
        right = torch.empty_like(rows)
        with tiles.full_precision(a.device):
            for tile in tiles.tiles(a, b, factor, start, shape, reach):
                where, matching = tile.matching()
                right[where] = matching
                for band in tile.bands():
                    way.add(band, rows, columns if both else None)
        rows, columns = way.logs(rows), way.logs(columns)
        ctx.save_for_backward(a, b, scale, rows, columns)
        ctx.settings = start, both, shape, reach, way
        loss = (rows - right).mean()
        return (loss + (columns - right).mean()) / 2 if both else loss

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, scale, rows, columns = ctx.saved_tensors
        start, both, shape, reach, way = ctx.settings
        gradients = tiles.Gradients(a, b, scale, ctx.needs_input_grad)
        with tiles.full_precision(a.device):
            for tile in tiles.tiles(a, b, gradients.factor, start, shape, reach):
                for band in tile.bands():
                    way.softmax(band, rows, columns if both else None)
                # A cross-entropy's gradient by its logits: softmax minus one-hot, by row and by column.
                tile.matching()[1].sub_(2 if both else 1)
                gradients.add(tile)
        by_a, by_b, by_scale = gradients.of(grad / (len(a) * (2 if both else 1)))
        return by_a, by_b, by_scale, None, None, None


# exp(±60) are normal float32 numbers, and so are sums of as many as any batch has.
NEAR = 60.0


class Far:
    """Log-sum-exp along rows and columns, for logits of any size: each sum is shifted by its own largest term."""

    def start(self, like: torch.Tensor, length: int) -> torch.Tensor:
        """Sums of nothing, one a row or column."""
        return like.new_full((length,), -torch.inf)

    def add(self, tile: tiles.Tile, rows: torch.Tensor, columns: torch.Tensor | None) -> None:
        """Take a tile into the sums of its rows, and of its columns where they are wanted; may spend its logits."""
        rows[tile.rows] = torch.logaddexp(rows[tile.rows], tile.logits.logsumexp(dim=1))
        if columns is not None:
            columns[tile.columns] = torch.logaddexp(columns[tile.columns], tile.logits.logsumexp(dim=0))

    def logs(self, sums: torch.Tensor) -> torch.Tensor:
        """The log-sum-exps, when all tiles are in."""
        return sums

    def softmax(self, tile: tiles.Tile, rows: torch.Tensor, columns: torch.Tensor | None) -> None:
        """Turn logits into their softmax over rows, plus that over columns where they are wanted."""
        if columns is None:
            tile.logits.sub_(rows[tile.rows, None]).exp_()
            return
        by_column = (tile.logits - columns[tile.columns]).exp_()
        tile.logits.sub_(rows[tile.rows, None]).exp_().add_(by_column)


class Near(Far):
    """The same where no logit is larger than :data:`NEAR`: nothing needs a shift, and one exponential serves both."""

    def start(self, like: torch.Tensor, length: int) -> torch.Tensor:
        return like.new_zeros(length)

    def add(self, tile: tiles.Tile, rows: torch.Tensor, columns: torch.Tensor | None) -> None:
        powers = tile.logits.exp_()
        rows[tile.rows] += powers.sum(dim=1)
        if columns is not None:
            columns[tile.columns] += powers.sum(dim=0)

    def logs(self, sums: torch.Tensor) -> torch.Tensor:
        return sums.log()

    def softmax(self, tile: tiles.Tile, rows: torch.Tensor, columns: torch.Tensor | None) -> None:
        by_row = (-rows[tile.rows, None]).exp()
        tile.logits.exp_().mul_(by_row if columns is None else by_row + (-columns[tile.columns]).exp())
