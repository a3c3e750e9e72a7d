"""Per-sample losses between a student's projected embedding and a frozen teacher's output.

Nothing is compared across samples here, so a process needs its own rows only: no ``rows``, nothing gathered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from losses.rows import check_pair, check_positive
from losses.tiles import accumulated


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``1/n Σ_i (1 − cos(a_i, b_i))``.

    Args:
        a: [n, P] rows of any length, the student's.
        b: [n, P] rows of any length, the teacher's.

    Returns:
        Scalar float32 (float64 for float64 inputs) in [0, 2]; a row of zeros counts as orthogonal to all.

    Raises:
        ValueError: if the shapes do not fit or a number is not finite.

    References:
        Grill et al., BYOL, arXiv 2006.07733, Eq. 2 (half of it); usual in feature distillation.
    """
    a, b = prepared(a, b)
    return (1 - F.cosine_similarity(a, b, dim=1)).mean()


def smooth_l1(a: torch.Tensor, b: torch.Tensor, *, beta: float = 2.0) -> torch.Tensor:
    """Smooth L1 distance to the teacher's standardised rows, the mean over samples and dimensions.

    ``x²/2β`` where ``|x| < β``, else ``|x| − β/2``, for ``x = a_i − standardised(b_i)``. Standardising each row (a
    layer norm without weights) puts all teachers on one footing, so that β means the same for each.

    Args:
        a: [n, P], the student's rows.
        b: [n, P], the teacher's rows, as they come.
        beta: where the square turns into the absolute value; > 0.

    Returns:
        Scalar float32 (float64 for float64 inputs).

    Raises:
        ValueError: if the shapes do not fit or a number is not finite.

    References:
        Wei et al., Feature Distillation, arXiv 2205.14141, section 3 (whitened targets, β = 2).
    """
    check_positive("beta", beta)
    a, b = prepared(a, b)
    return F.smooth_l1_loss(a, F.layer_norm(b, b.shape[1:]), beta=beta)


def kl(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """``T²/n Σ_i KL(softmax(teacher_i / T) ‖ softmax(student_i / T))``: the student matches the teacher's function.

    Args:
        student: [n, C] logits.
        teacher: [n, C] logits; no gradient reaches them.
        temperature: T > 0; T² keeps the gradient's size independent of it.

    Returns:
        Scalar float32 (float64 for float64 inputs), ≥ 0.

    Raises:
        ValueError: if the shapes do not fit or a logit is not finite.

    References:
        Hinton et al., arXiv 1503.02531, section 2; Beyer et al., Knowledge distillation: a good teacher is patient
        and consistent, arXiv 2106.05237, section 2.
    """
    check_positive("temperature", temperature)
    student, teacher = prepared(student, teacher)
    mine, theirs = (x.div(temperature).log_softmax(dim=1) for x in (student, teacher.detach()))
    return temperature**2 * F.kl_div(mine, theirs, log_target=True, reduction="batchmean")


def prepared(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides, checked, in float32 (float64 where either is)."""
    check_pair(a, b)
    a, b = accumulated(a, b)
    return a, b
