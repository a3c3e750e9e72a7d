"""The sigmoid loss of SigLIP: each pair of the batch is classified as matching or not, independently of others."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from losses import tiles
from losses.rows import ALL_ROWS, check_number, check_pair, row_range


def sigmoid(
    a: torch.Tensor,
    b: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    rows: slice = ALL_ROWS,
    tile: int | None = None,
) -> torch.Tensor:
    """``−1/N Σ_i Σ_j log σ(z_ij (scale · a_i·b_j + bias))`` with z_ij = 1 where i = j and −1 elsewhere.

    Tiled: the N × N logits are never in memory as a whole, neither in the forward nor in the backward.

    Args:
        a: [N, D] unit rows of any float type, one tower's embeddings of the global batch.
        b: [N, D] unit rows, the other tower's; row i matches row i of ``a``.
        scale: [1], the inverse temperature 1/τ, ≥ 0; infinity is clamped to a very large number.
        bias: [1], added to every logit; SigLIP starts it at −10, since most pairs do not match.
        rows: the rows of the global batch over which this process takes the mean; default all.
        tile: side of a tile; default one that is fast on the device.

    Returns:
        Scalar float32 (float64 for float64 inputs): the mean over ``rows`` of a row's sum over all columns.

    Raises:
        ValueError: if the shapes do not fit or an embedding is not finite.

    References:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343, Eq. 1 and Algorithm 1.
    """
    check_pair(a, b)
    check_number("scale", scale)
    check_number("bias", bias)
    rows = row_range(rows, len(a))
    a, b = tiles.to_accumulation_dtype(a, b)
    scale, bias = scale.to(a.dtype), bias.to(a.dtype)
    loss: torch.Tensor = _TiledSigmoid.apply(a[rows], b, scale, bias, rows.start, tiles.tile_shape(tile, a.device))
    return loss


class _TiledSigmoid(torch.autograd.Function):
    """Mean over the rows of ``a`` of −Σ_j log σ(z_ij l_ij), with the logits ``l = scale · a bᵀ + bias`` [n, N]."""

    @staticmethod
    def forward(
        ctx: Any,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        first_row: int,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        clamped_scale = tiles.clamp_scale(scale, a.dtype)
        row_losses, bound = clamped_scale.new_zeros(len(a)), tiles.logit_bound(a, b, clamped_scale)
        with tiles.autocast_disabled(a.device):
            for tile in tiles.logit_tiles(a, b, clamped_scale, first_row, shape, bound):
                # z_ij l_ij: the sign of every logit changes, and that of a positive pair changes back.
                tile.logits.add_(bias).neg_()
                tile.positive_pairs()[1].neg_()
                for band in tile.bands():
                    # Not torch's softplus, which is linear above 20 and so not exact in float64.
                    row_losses[band.rows] -= F.logsigmoid(band.logits).sum(dim=1)
        ctx.save_for_backward(a, b, scale, bias)
        ctx.settings = first_row, shape, bound
        return row_losses.mean()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, scale, bias = ctx.saved_tensors
        first_row, shape, bound = ctx.settings
        gradients = tiles.Gradients(a, b, scale, ctx.needs_input_grad)
        grad_bias = gradients.clamped_scale.new_zeros(1)
        with tiles.autocast_disabled(a.device):
            for tile in tiles.logit_tiles(a, b, gradients.clamped_scale, first_row, shape, bound):
                for band in tile.bands():
                    band.logits.add_(bias)
                    # The gradient of −log σ(z l) by l is −z σ(−z l): σ(l) for z = −1, and −σ(−l) for z = 1.
                    band.positive_pairs()[1].neg_()
                    band.logits.sigmoid_()
                    band.positive_pairs()[1].neg_()
                    grad_bias += band.logits.sum()
                gradients.add(tile)
        weight = grad_output / len(a)
        return *gradients.scaled(weight), (grad_bias * weight).to(bias.dtype), None, None
