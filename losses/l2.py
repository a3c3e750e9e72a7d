"""The squared distance between matching rows."""

from __future__ import annotations

import torch

from losses.rows import WHOLE, check_pair, share
from losses.tiles import accumulated


def l2(a: torch.Tensor, b: torch.Tensor, *, rows: slice = WHOLE) -> torch.Tensor:
    """Mean squared distance between matching rows, ``1/N Σ_i ‖a_i − b_i‖²``.

    Args:
        a: [N, D] unit rows, the student's embeddings.
        b: [N, D] unit rows, the teacher's; row i matches row i of ``a``.
        rows: the rows of the batch this process answers for; default all.

    Returns:
        Scalar float32 (float64 for float64 inputs): the mean over ``rows``, in [0, 4] for unit rows.

    Raises:
        ValueError: if the shapes do not fit or an embedding is not finite.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 5.
    """
    check_pair(a, b)
    mine = share(rows, len(a))
    a, b = accumulated(a, b)
    return (a[mine] - b[mine]).square().sum(dim=1).mean()
