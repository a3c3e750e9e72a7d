"""L2 representation transfer: the paper's alternative to contrastive transfer."""

from __future__ import annotations

import torch

from losses.objective import Embeddings
from losses.rows import WHOLE, check_pair
from losses.transfer import Transfer


def l2(a: torch.Tensor, b: torch.Tensor, *, rows: slice = WHOLE) -> torch.Tensor:
    """Mean squared distance between matching rows, ``1/N Σ_i ‖a_i − b_i‖²``.

    Args:
        a: [N, D] unit rows, the student's embeddings.
        b: [N, D] unit rows, the teacher's; row i matches row i of ``a``.
        rows: the rows of the batch this process answers for; default all.

    Returns:
        Scalar float32 (float64 for float64 inputs): the mean over ``rows``, in [0, 4] for unit rows.

    Raises:
        ValueError: if the shapes do not fit.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 5.
    """
    check_pair(a, b)
    dtype = torch.promote_types(a.dtype, torch.float32)
    return (a[rows].to(dtype) - b[rows].to(dtype)).square().sum(dim=1).mean()


class L2Transfer(Transfer):
    """Eq. 5 of arXiv 2305.16999: ``⅓ (L_{f↔g} + w/N Σ_i (‖f_h − h_f‖² + ‖g_h − h_g‖²))``."""

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings) -> torch.Tensor:
        return l2(student, teacher, rows=embeddings.rows)


OBJECTIVE = L2Transfer
