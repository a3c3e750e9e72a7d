"""Per-sample losses between a student's projected embedding and a frozen teacher's output.

No sample is compared with another, so that each process computes the mean over its own samples: these functions have
no ``rows``, and nothing has to be gathered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from losses.rows import check_pair, check_positive
from losses.tiles import to_accumulation_dtype


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``1/n Σ_i (1 − cos(a_i, b_i))``.

    Args:
        a: [n, P] rows of any length, the student's.
        b: [n, P] rows of any length, the teacher's.

    Returns:
        Scalar float32 (float64 for float64 inputs) in [0, 2]; the cosine of a row of zeros with any other is 0.

    Raises:
        ValueError: if the shapes do not fit or a number is not finite.

    References:
        Grill et al., BYOL, arXiv 2006.07733, Eq. 2 (half of it); commonly used in feature distillation.
    """
    a, b = check_and_convert(a, b)
    return (1 - F.cosine_similarity(a, b, dim=1)).mean()


def smooth_l1(a: torch.Tensor, b: torch.Tensor, *, beta: float = 2.0) -> torch.Tensor:
    """Smooth L1 distance to the teacher's standardised rows, the mean over samples and dimensions.

    ``x²/2β`` where ``|x| < β``, else ``|x| − β/2``, for ``x = a_i − standardised(b_i)``. Standardising each row (a
    layer norm without weights) gives the targets of all teachers the same scale, so that one β suits them all.

    Args:
        a: [n, P], the student's rows.
        b: [n, P], the teacher's rows, not standardised.
        beta: the ``|x|`` at which the square turns into the absolute value; > 0.

    Returns:
        Scalar float32 (float64 for float64 inputs).

    Raises:
        ValueError: if the shapes do not fit or a number is not finite.

    References:
        Wei et al., Feature Distillation, arXiv 2205.14141, section 3 (whitened targets, β = 2).
    """
    check_positive("beta", beta)
    a, b = check_and_convert(a, b)
    return F.smooth_l1_loss(a, F.layer_norm(b, b.shape[1:]), beta=beta)


def kl(student: torch.Tensor, teacher: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """``T²/n Σ_i KL(softmax(teacher_i / T) ‖ softmax(student_i / T))``, the loss of knowledge distillation.

    Args:
        student: [n, C] logits.
        teacher: [n, C] logits; no gradient reaches them.
        temperature: T > 0; the factor T² keeps the size of the gradient about the same for every T.

    Returns:
        Scalar float32 (float64 for float64 inputs), ≥ 0.

    Raises:
        ValueError: if the shapes do not fit or a logit is not finite.

    References:
        Hinton et al., arXiv 1503.02531, section 2; Beyer et al., Knowledge distillation: a good teacher is patient
        and consistent, arXiv 2106.05237, section 2.
    """
    check_positive("temperature", temperature)
    student, teacher = check_and_convert(student, teacher)
    student_log_p, teacher_log_p = (x.div(temperature).log_softmax(dim=1) for x in (student, teacher.detach()))
    return temperature**2 * F.kl_div(student_log_p, teacher_log_p, log_target=True, reduction="batchmean")


def check_and_convert(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a pair [n, P] and return it in float32 (float64 if either is float64)."""
    check_pair(a, b)
    a, b = to_accumulation_dtype(a, b)
    return a, b
