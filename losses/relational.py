"""Relational distillation: the student's similarities between samples follow the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from losses import tiles
from losses.rows import WHOLE, check_number, check_pair, check_rows, share


def relational(
    a: torch.Tensor,
    b: torch.Tensor,
    teacher_a: torch.Tensor,
    teacher_b: torch.Tensor,
    scale: torch.Tensor,
    teacher_scale: torch.Tensor,
    *,
    without_self: bool = False,
    rows: slice = WHOLE,
    tile: int | None = None,
) -> torch.Tensor:
    """KL divergence from the student's similarity distributions to the teacher's, both ways averaged.

    ``½ (K(S, T) + K(Sᵀ, Tᵀ))`` with ``K(S, T) = 1/N Σ_i KL(softmax_j T_ij ‖ softmax_j S_ij)``,
    ``S = scale · a bᵀ`` and ``T = teacher_scale · t_a t_bᵀ``. Tiled: neither matrix ever exists at once.

    Args:
        a, b: [N, D] unit rows, the students' embeddings (both the same tower's to compare within one).
        teacher_a, teacher_b: [N, P] unit rows, the teachers'; they get no gradient.
        scale: [1], the student's 1/τ.
        teacher_scale: [1], the teacher's 1/τ; no gradient.
        without_self: leave out i = j, where within one tower the similarity is always 1 and tells nothing.
        rows: the rows of the batch this process answers for; default all.
        tile: side of a tile; default one that suits the device.

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
    mine, shape = share(rows, len(a)), tiles.shape(tile, a.device)
    symmetric = a is b and teacher_a is teacher_b
    a, b, teacher_a, teacher_b = tiles.accumulated(a, b, teacher_a, teacher_b)
    settings = scale.to(a.dtype), teacher_scale.to(a.dtype), mine.start, without_self, shape
    loss: torch.Tensor
    if symmetric:  # so are both matrices, and the way back is the way out
        loss = _Following.apply(a[mine], a, teacher_a[mine], teacher_a, *settings)
        return loss
    way_out = _Following.apply(a[mine], b, teacher_a[mine], teacher_b, *settings)
    way_back = _Following.apply(b[mine], a, teacher_b[mine], teacher_a, *settings)
    loss = (way_out + way_back) / 2
    return loss


Matrix = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # a, b and the factor of factor · a bᵀ


def both(
    student: Matrix, teacher: Matrix, start: int, without_self: bool, shape: tuple[int, int]
) -> Iterator[tuple[tiles.Tile, Iterator[tuple[tiles.Tile, torch.Tensor]]]]:
    """Every tile of the student's matrix; and its bands, with the teacher's logits at the same place."""
    for mine, theirs in zip(tiles.tiles(*student, start, shape), tiles.tiles(*teacher, start, shape), strict=True):
        if without_self:
            for one in (mine, theirs):
                one.matching()[1].fill_(-tiles.largest(one.logits.dtype))
        yield mine, ((band, other.logits) for band, other in zip(mine.bands(), theirs.bands(), strict=True))


class _Following(torch.autograd.Function):
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
        start: int,
        without_self: bool,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        student = a, b, tiles.factor(scale, a.dtype)
        teacher = teacher_a, teacher_b, tiles.factor(teacher_scale, a.dtype)
        settings = start, without_self, shape
        of_student, of_teacher = (student[2].new_full((len(a),), -torch.inf) for _ in range(2))
        apart = torch.zeros_like(of_student)
        with tiles.full_precision(a.device):
            for band, target in (pair for _, bands in both(student, teacher, *settings) for pair in bands):
                of_student[band.rows] = torch.logaddexp(of_student[band.rows], band.logits.logsumexp(dim=1))
                of_teacher[band.rows] = torch.logaddexp(of_teacher[band.rows], target.logsumexp(dim=1))
            for band, target in (pair for _, bands in both(student, teacher, *settings) for pair in bands):
                theirs = target.sub_(of_teacher[band.rows, None])
                apart[band.rows] += (theirs.exp() * (theirs - band.logits + of_student[band.rows, None])).sum(dim=1)
        ctx.save_for_backward(a, b, teacher_a, teacher_b, scale, teacher[2], of_student, of_teacher)
        ctx.settings = settings
        return apart.mean()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, teacher_a, teacher_b, scale, teacher_factor, of_student, of_teacher = ctx.saved_tensors
        wanted = *ctx.needs_input_grad[:2], ctx.needs_input_grad[4]
        gradients = tiles.Gradients(a, b, scale, wanted)
        student, teacher = (a, b, gradients.factor), (teacher_a, teacher_b, teacher_factor)
        with tiles.full_precision(a.device):
            for tile, bands in both(student, teacher, *ctx.settings):
                for band, target in bands:
                    # A cross-entropy's gradient by its logits, with soft targets: softmax minus softmax.
                    band.logits.sub_(of_student[band.rows, None]).exp_()
                    band.logits.sub_(target.sub_(of_teacher[band.rows, None]).exp_())
                gradients.add(tile)
        by_a, by_b, by_scale = gradients.of(grad / len(a))
        return by_a, by_b, None, None, by_scale, None, None, None, None
