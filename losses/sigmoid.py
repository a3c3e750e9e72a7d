"""The sigmoid loss of SigLIP: every pair of the batch is its own yes-or-no question."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from losses import tiles
from losses.rows import WHOLE, check_number, check_pair, share


def sigmoid(
    a: torch.Tensor,
    b: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    rows: slice = WHOLE,
    tile: int | None = None,
) -> torch.Tensor:
    """``−1/N Σ_i Σ_j log σ(z_ij (scale · a_i·b_j + bias))`` with z_ij = 1 where i = j and −1 elsewhere.

    Tiled: the N × N logits never exist at once, neither here nor in the backward.

    Args:
        a: [N, D] unit rows of any float type, one tower's embeddings of the global batch.
        b: [N, D] unit rows, the other tower's; row i matches row i of ``a``.
        scale: [1], the inverse temperature 1/τ, ≥ 0; infinity counts as a very large number.
        bias: [1], added to every logit; SigLIP starts it at −10, since most pairs do not match.
        rows: the rows of the batch this process answers for; default all.
        tile: side of a tile; default one that suits the device.

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
    mine = share(rows, len(a))
    a, b = tiles.accumulated(a, b)
    scale, bias = scale.to(a.dtype), bias.to(a.dtype)
    loss: torch.Tensor = _Deciding.apply(a[mine], b, scale, bias, mine.start, tiles.shape(tile, a.device))
    return loss


class _Deciding(torch.autograd.Function):
    """Mean over the rows of ``a`` of −Σ_j log σ(z_ij logit_ij)."""

    @staticmethod
    def forward(
        ctx: Any,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        start: int,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        factor = tiles.factor(scale, a.dtype)
        rows, reach = factor.new_zeros(len(a)), tiles.reach(a, b, factor)
        with tiles.full_precision(a.device):
            for tile in tiles.tiles(a, b, factor, start, shape, reach):
                tile.logits.add_(bias).neg_()
                tile.matching()[1].neg_()
                for band in tile.bands():
                    # Not torch's softplus, which turns linear at 20.
                    rows[band.rows] -= F.logsigmoid(band.logits).sum(dim=1)
        ctx.save_for_backward(a, b, scale, bias)
        ctx.settings = start, shape, reach
        return rows.mean()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, scale, bias = ctx.saved_tensors
        start, shape, reach = ctx.settings
        gradients = tiles.Gradients(a, b, scale, ctx.needs_input_grad)
        by_bias = gradients.factor.new_zeros(1)
        with tiles.full_precision(a.device):
            for tile in tiles.tiles(a, b, gradients.factor, start, shape, reach):
                for band in tile.bands():
                    band.logits.add_(bias)
                    # The slope of −log σ(z l) is −z σ(−z l): the sign of matching pairs is turned before and after.
                    band.matching()[1].neg_()
                    band.logits.sigmoid_()
                    band.matching()[1].neg_()
                    by_bias += band.logits.sum()
                gradients.add(tile)
        weight = grad / len(a)
        return *gradients.of(weight), (by_bias * weight).to(bias.dtype), None, None
