"""The squared distance between matching rows."""

from __future__ import annotations

import torch

from losses.rows import ALL_ROWS, check_pair, row_range
from losses.tiles import to_accumulation_dtype


def l2(a: torch.Tensor, b: torch.Tensor, *, rows: slice = ALL_ROWS) -> torch.Tensor:
    """Mean squared distance between matching rows, ``1/N Σ_i ‖a_i − b_i‖²``.

    Args:
        a: [N, D] unit rows, the student's embeddings.
        b: [N, D] unit rows, the teacher's; row i matches row i of ``a``.
        rows: the rows of the global batch over which this process takes the mean; default all.

    Returns:
        Scalar float32 (float64 for float64 inputs): the mean over ``rows``, in [0, 4] for unit rows.

    Raises:
        ValueError: if the shapes do not fit or an embedding is not finite.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 5.
    """
    check_pair(a, b)
    rows = row_range(rows, len(a))
    a, b = to_accumulation_dtype(a, b)
    return (a[rows] - b[rows]).square().sum(dim=1).mean()
