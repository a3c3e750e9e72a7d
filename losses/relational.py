"""Relational distillation: the student learns the teacher's distribution of similarities between samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from losses import tiles
from losses.rows import ALL_ROWS, check_number, check_pair, check_rows, row_range


def relational(
    a: torch.Tensor,
    b: torch.Tensor,
    teacher_a: torch.Tensor,
    teacher_b: torch.Tensor,
    scale: torch.Tensor,
    teacher_scale: torch.Tensor,
    *,
    without_self: bool = False,
    rows: slice = ALL_ROWS,
    tile: int | None = None,
) -> torch.Tensor:
    """KL divergence from the student's similarity distributions to the teacher's, averaged over both directions.

    ``½ (K(S, T) + K(Sᵀ, Tᵀ))`` with ``K(S, T) = 1/N Σ_i KL(softmax_j T_ij ‖ softmax_j S_ij)``,
    ``S = scale · a bᵀ`` and ``T = teacher_scale · t_a t_bᵀ``. Tiled: neither matrix is ever in memory as a whole.

    Args:
        a, b: [N, D] unit rows, the students' embeddings; the same tensor twice for similarities within one tower.
        teacher_a, teacher_b: [N, P] unit rows, the teachers' embeddings; they get no gradient.
        scale: [1], the student's 1/τ.
        teacher_scale: [1], the teacher's 1/τ; no gradient.
        without_self: leave out i = j; within one tower that similarity is always 1 and carries no information.
        rows: the rows of the global batch over which this process takes the mean; default all.
        tile: side of a tile; default one that is fast on the device.

    Returns:
        Scalar float32 (float64 for float64 inputs), ≥ 0: the mean over ``rows``.

    Raises:
        ValueError: if the shapes do not fit or an embedding is not finite.

    References:
        Yang et al., CLIP-KD, arXiv 2307.12732, section 3.2 (contrastive relational distillation).
    """
    check_pair(a, b)
    check_pair(teacher_a, teacher_b)
    check_rows(a, teacher_a)
    check_number("scale", scale)
    check_number("teacher_scale", teacher_scale)
    rows, shape = row_range(rows, len(a)), tiles.tile_shape(tile, a.device)
    symmetric = a is b and teacher_a is teacher_b
    a, b, teacher_a, teacher_b = tiles.to_accumulation_dtype(a, b, teacher_a, teacher_b)
    settings = scale.to(a.dtype), teacher_scale.to(a.dtype), rows.start, without_self, shape
    loss: torch.Tensor
    if symmetric:  # S = Sᵀ and T = Tᵀ, so the two directions are equal
        loss = _TiledKL.apply(a[rows], a, teacher_a[rows], teacher_a, *settings)
        return loss
    a_to_b = _TiledKL.apply(a[rows], b, teacher_a[rows], teacher_b, *settings)
    b_to_a = _TiledKL.apply(b[rows], a, teacher_b[rows], teacher_a, *settings)
    loss = (a_to_b + b_to_a) / 2
    return loss


class Similarities(NamedTuple):
    """The matrix ``scale · a bᵀ`` [n, N] by its factors: a [n, D], b [N, D] and a clamped scale [1]."""

    a: torch.Tensor
    b: torch.Tensor
    scale: torch.Tensor


def paired_tiles(
    student: Similarities, teacher: Similarities, first_row: int, without_self: bool, shape: tuple[int, int]
) -> Iterator[tuple[tiles.Tile, Iterator[tuple[tiles.Tile, torch.Tensor]]]]:
    """Every tile of the student's matrix, with its bands, each beside the teacher's logits at the same place.

    With ``without_self``, the positive pairs of both matrices get so small a logit that their softmax is 0, unless
    there are no other pairs.
    """
    for student_tile, teacher_tile in zip(
        tiles.logit_tiles(*student, first_row, shape), tiles.logit_tiles(*teacher, first_row, shape), strict=True
    ):
        if without_self:
            for tile in (student_tile, teacher_tile):
                tile.positive_pairs()[1].fill_(-tiles.clamp_limit(tile.logits.dtype))
        bands = zip(student_tile.bands(), teacher_tile.bands(), strict=True)
        yield student_tile, ((band, teacher_band.logits) for band, teacher_band in bands)


class _TiledKL(torch.autograd.Function):
    """``1/n Σ_i Σ_j p_ij (log p_ij − log q_ij)`` with ``p_i = softmax_j T_ij`` and ``q_i = softmax_j S_ij``."""

    @staticmethod
    def forward(
        ctx: Any,
        a: torch.Tensor,
        b: torch.Tensor,
        teacher_a: torch.Tensor,
        teacher_b: torch.Tensor,
        scale: torch.Tensor,
        teacher_scale: torch.Tensor,
        first_row: int,
        without_self: bool,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        student = Similarities(a, b, tiles.clamp_scale(scale, a.dtype))
        teacher = Similarities(teacher_a, teacher_b, tiles.clamp_scale(teacher_scale, a.dtype))
        settings = first_row, without_self, shape
        student_lse, teacher_lse = (student.scale.new_full((len(a),), -torch.inf) for _ in range(2))
        divergences = torch.zeros_like(student_lse)
        with tiles.autocast_disabled(a.device):
            for _, bands in paired_tiles(student, teacher, *settings):
                for band, teacher_logits in bands:
                    student_lse[band.rows] = torch.logaddexp(student_lse[band.rows], band.logits.logsumexp(dim=1))
                    teacher_lse[band.rows] = torch.logaddexp(teacher_lse[band.rows], teacher_logits.logsumexp(dim=1))
            # The logarithms of p and q are known once the sums are complete: a second pass through the tiles.
            for _, bands in paired_tiles(student, teacher, *settings):
                for band, teacher_logits in bands:
                    rows = band.rows
                    log_p = teacher_logits.sub_(teacher_lse[rows, None])
                    divergences[rows] += (log_p.exp() * (log_p - band.logits + student_lse[rows, None])).sum(dim=1)
        ctx.save_for_backward(a, b, teacher_a, teacher_b, scale, teacher.scale, student_lse, teacher_lse)
        ctx.settings = settings
        return divergences.mean()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, teacher_a, teacher_b, scale, clamped_teacher_scale, student_lse, teacher_lse = ctx.saved_tensors
        needed = *ctx.needs_input_grad[:2], ctx.needs_input_grad[4]
        gradients = tiles.Gradients(a, b, scale, needed)
        student = Similarities(a, b, gradients.clamped_scale)
        teacher = Similarities(teacher_a, teacher_b, clamped_teacher_scale)
        with tiles.autocast_disabled(a.device):
            for tile, bands in paired_tiles(student, teacher, *ctx.settings):
                for band, teacher_logits in bands:
                    # The gradient of KL(p ‖ q) by the student's logits is q − p.
                    band.logits.sub_(student_lse[band.rows, None]).exp_()
                    band.logits.sub_(teacher_logits.sub_(teacher_lse[band.rows, None]).exp_())
                gradients.add(tile)
        grad_a, grad_b, grad_scale = gradients.scaled(grad_output / len(a))
        return grad_a, grad_b, None, None, grad_scale, None, None, None, None
