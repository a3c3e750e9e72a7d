"""The symmetric softmax contrastive loss."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from losses import tiles
from losses.rows import ALL_ROWS, check_number, check_pair, row_range


def contrastive(
    a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, *, rows: slice = ALL_ROWS, tile: int | None = None
) -> torch.Tensor:
    """Bidirectional InfoNCE between two towers.

    ``½ (L_{a→b} + L_{b→a})`` where ``L_{a→b}`` is the cross-entropy of classifying ``a_i`` as class i among
    all N candidates, with logits ``scale · a_i·b_j``. Tiled: the N × N logits are never in memory as a whole,
    neither in the forward nor in the backward.

    Args:
        a: [N, D] unit rows of any float type, one tower's embeddings of the global batch.
        b: [N, D] unit rows, the other tower's; row i matches row i of ``a``.
        scale: [1], the inverse temperature 1/τ, ≥ 0; infinity is clamped to a very large number.
        rows: the rows of the global batch over which this process takes the mean; default all.
        tile: side of a tile; default one that is fast on the device.

    Returns:
        Scalar float32 (float64 for float64 inputs): the mean over ``rows``.

    Raises:
        ValueError: if the shapes do not fit or an embedding is not finite.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 2–4; Radford et al., CLIP, arXiv 2103.00020.
    """
    check_pair(a, b)
    check_number("scale", scale)
    shape, rows = tiles.tile_shape(tile, a.device), row_range(rows, len(a))
    a, b = tiles.to_accumulation_dtype(a, b)
    scale = scale.to(a.dtype)
    loss: torch.Tensor
    if rows == slice(0, len(a)):
        loss = _TiledCrossEntropy.apply(a, b, scale, 0, True, shape)
        return loss
    # For some of the rows only, a → b needs these rows of the logits and b → a these columns. They are different
    # parts of the matrix, so that no tile serves both directions.
    a_to_b = _TiledCrossEntropy.apply(a[rows], b, scale, rows.start, False, shape)
    b_to_a = _TiledCrossEntropy.apply(b[rows], a, scale, rows.start, False, shape)
    loss = (a_to_b + b_to_a) / 2
    return loss


def one_way(
    a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, *, rows: slice = ALL_ROWS, tile: int | None = None
) -> torch.Tensor:
    """``L_{a→b}`` of :func:`contrastive` alone: the rows of ``a`` are classified among those of ``b``.

    The arguments, the result and the errors are those of :func:`contrastive`.

    References:
        Yang et al., CLIP-KD, arXiv 2307.12732, section 3.2 (interactive contrastive learning).
    """
    check_pair(a, b)
    check_number("scale", scale)
    shape, rows = tiles.tile_shape(tile, a.device), row_range(rows, len(a))
    a, b = tiles.to_accumulation_dtype(a, b)
    loss: torch.Tensor = _TiledCrossEntropy.apply(a[rows], b, scale.to(a.dtype), rows.start, False, shape)
    return loss


class _TiledCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of the logits ``scale · a bᵀ`` [n, N], where row i is of class ``first_row + i``.

    With ``bidirectional``, which takes n = N: the average of that of the logits and that of their transpose.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: torch.Tensor,
        first_row: int,
        bidirectional: bool,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        clamped_scale = tiles.clamp_scale(scale, a.dtype)
        bound = tiles.logit_bound(a, b, clamped_scale)
        log_sum_exp: LogSumExp = UnshiftedLogSumExp() if bound <= MAX_UNSHIFTED_LOGIT else ShiftedLogSumExp()
        row_sums = log_sum_exp.initial_sums(clamped_scale, len(a))
        column_sums = log_sum_exp.initial_sums(clamped_scale, len(b))
        positive_logits = torch.empty_like(row_sums)
        with tiles.autocast_disabled(a.device):
            for tile in tiles.logit_tiles(a, b, clamped_scale, first_row, shape, bound):
                pair_rows, logits = tile.positive_pairs()
                positive_logits[pair_rows] = logits
                for band in tile.bands():
                    log_sum_exp.add(band, row_sums, column_sums if bidirectional else None)
        row_lse, column_lse = log_sum_exp.finish(row_sums), log_sum_exp.finish(column_sums)
        ctx.save_for_backward(a, b, scale, row_lse, column_lse)
        ctx.settings = first_row, bidirectional, shape, bound, log_sum_exp
        loss = (row_lse - positive_logits).mean()
        return (loss + (column_lse - positive_logits).mean()) / 2 if bidirectional else loss

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, scale, row_lse, column_lse = ctx.saved_tensors
        first_row, bidirectional, shape, bound, log_sum_exp = ctx.settings
        directions = 2 if bidirectional else 1
        gradients = tiles.Gradients(a, b, scale, ctx.needs_input_grad)
        with tiles.autocast_disabled(a.device):
            for tile in tiles.logit_tiles(a, b, gradients.clamped_scale, first_row, shape, bound):
                for band in tile.bands():
                    log_sum_exp.softmax_(band, row_lse, column_lse if bidirectional else None)
                # The gradient of a cross-entropy by its logits is softmax minus one-hot, in each direction.
                tile.positive_pairs()[1].sub_(directions)
                gradients.add(tile)
        grad_a, grad_b, grad_scale = gradients.scaled(grad_output / (len(a) * directions))
        return grad_a, grad_b, grad_scale, None, None, None


class LogSumExp(Protocol):
    """A way to compute the log-sum-exp of every row and, where wanted, of every column, one tile after the other."""

    def initial_sums(self, like: torch.Tensor, length: int) -> torch.Tensor:
        """[length] sums before the first tile, in the dtype and on the device of ``like``."""

    def add(self, tile: tiles.Tile, row_sums: torch.Tensor, column_sums: torch.Tensor | None) -> None:
        """Add a tile to the sums [n] of its rows and, unless None, to those [N] of its columns.

        May overwrite the tile's logits.
        """

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """The log-sum-exps, from the sums over all tiles."""

    def softmax_(self, tile: tiles.Tile, row_lse: torch.Tensor, column_lse: torch.Tensor | None) -> None:
        """Replace the tile's logits by their softmax over the row, plus that over the column unless it is None."""


# exp(60) and exp(−60) are normal float32 numbers, and so are sums of exp(60) over as many rows as any batch has.
MAX_UNSHIFTED_LOGIT = 60.0


class UnshiftedLogSumExp:
    """For logits of at most :data:`MAX_UNSHIFTED_LOGIT` in absolute value: sums of exp(logit).

    Nothing overflows, so nothing is subtracted from the logits, and one exponential serves the row and the column.
    """

    def initial_sums(self, like: torch.Tensor, length: int) -> torch.Tensor:
        return like.new_zeros(length)

    def add(self, tile: tiles.Tile, row_sums: torch.Tensor, column_sums: torch.Tensor | None) -> None:
        exponentials = tile.logits.exp_()
        row_sums[tile.rows] += exponentials.sum(dim=1)
        if column_sums is not None:
            column_sums[tile.columns] += exponentials.sum(dim=0)

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        return sums.log()

    def softmax_(self, tile: tiles.Tile, row_lse: torch.Tensor, column_lse: torch.Tensor | None) -> None:
        inverse_row_sum = (-row_lse[tile.rows, None]).exp()
        tile.logits.exp_().mul_(
            inverse_row_sum if column_lse is None else inverse_row_sum + (-column_lse[tile.columns]).exp()
        )


class ShiftedLogSumExp:
    """For logits of any size: the sums are kept as logarithms, and each is shifted by its largest term."""

    def initial_sums(self, like: torch.Tensor, length: int) -> torch.Tensor:
        return like.new_full((length,), -torch.inf)

    def add(self, tile: tiles.Tile, row_sums: torch.Tensor, column_sums: torch.Tensor | None) -> None:
        row_sums[tile.rows] = torch.logaddexp(row_sums[tile.rows], tile.logits.logsumexp(dim=1))
        if column_sums is not None:
            column_sums[tile.columns] = torch.logaddexp(column_sums[tile.columns], tile.logits.logsumexp(dim=0))

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        return sums

    def softmax_(self, tile: tiles.Tile, row_lse: torch.Tensor, column_lse: torch.Tensor | None) -> None:
        if column_lse is None:
            tile.logits.sub_(row_lse[tile.rows, None]).exp_()
            return
        column_softmax = (tile.logits - column_lse[tile.columns]).exp_()
        tile.logits.sub_(row_lse[tile.rows, None]).exp_().add_(column_softmax)
