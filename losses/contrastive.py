"""The symmetric softmax contrastive loss, and the objective that is nothing else (CLIP, LiT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from losses.objective import Embeddings, Objective
from losses.rows import WHOLE, check_pair, check_scale


def contrastive(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, *, rows: slice = WHOLE) -> torch.Tensor:
    """Bidirectional InfoNCE between two towers.

    ``½ (L_{a→b} + L_{b→a})`` where ``L_{a→b}`` is the cross-entropy of picking ``b_i`` for ``a_i`` among
    all N candidates.

    Args:
        a: [N, D] unit rows, one tower's embeddings of the global batch.
        b: [N, D] unit rows, the other tower's; row i matches row i of ``a``.
        scale: [1], the inverse temperature 1/τ.
        rows: the rows of the batch this process answers for; default all.

    Returns:
        Scalar float32 (float64 for float64 inputs): the mean over ``rows``.

    Raises:
        ValueError: if the shapes do not fit.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 2–4; Radford et al., CLIP, arXiv 2103.00020.
    """
    check_pair(a, b)
    check_scale(scale)
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b, scale = a.to(dtype), b.to(dtype), scale.to(dtype)
    target = torch.arange(len(a), device=a.device)[rows]
    a_to_b = F.cross_entropy(scale * (a[rows] @ b.T), target)
    b_to_a = F.cross_entropy(scale * (b[rows] @ a.T), target)
    return (a_to_b + b_to_a) / 2


class Contrastive(Objective):
    """``L_{f↔g}`` alone: CLIP from scratch, or LiT where the image tower is the frozen teacher."""

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        e = embeddings
        return {"loss": contrastive(e.image, e.text, e.scale, rows=e.rows)}


OBJECTIVE = Contrastive
