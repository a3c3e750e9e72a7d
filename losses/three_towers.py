"""The Three Towers objective."""

from __future__ import annotations

import torch

from losses.contrastive import contrastive
from losses.objective import Embeddings
from losses.rows import WHOLE
from losses.transfer import Transfer


def three_towers(
    image: torch.Tensor,
    text: torch.Tensor,
    image_h: torch.Tensor,
    teacher_f: torch.Tensor,
    text_h: torch.Tensor,
    teacher_g: torch.Tensor,
    scale: torch.Tensor,
    *,
    weight: float = 1.0,
    rows: slice = WHOLE,
) -> torch.Tensor:
    """Mean of three contrastive losses, ``⅓ (L_{f↔g} + w (L_{f_h↔h_f} + L_{g_h↔h_g}))``.

    Args:
        image: [N, D] unit rows, ``f(I)``.
        text: [N, D] unit rows, ``g(T)``.
        image_h: [N, D] unit rows, ``f_h(I)``, the image tower through its head.
        teacher_f: [N, D] unit rows, ``h_f(I)``, the teacher through its head for the image tower.
        text_h: [N, D] unit rows, ``g_h(T)``, the text tower through its head.
        teacher_g: [N, D] unit rows, ``h_g(I)``, the teacher through its head for the text tower.
        scale: [1], the one inverse temperature 1/τ that all terms share.
        weight: w, the weight of the two transfer terms; 1 in the paper.
        rows: the rows of the batch this process answers for; default all.

    Returns:
        Scalar: the mean over ``rows``.

    Raises:
        ValueError: if the shapes do not fit.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 1.
    """
    fg = contrastive(image, text, scale, rows=rows)
    fh = contrastive(image_h, teacher_f, scale, rows=rows)
    gh = contrastive(text_h, teacher_g, scale, rows=rows)
    return (fg + weight * (fh + gh)) / 3


class ThreeTowers(Transfer):
    """Eq. 1 of arXiv 2305.16999: all three terms contrastive, one temperature."""

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings) -> torch.Tensor:
        return contrastive(student, teacher, embeddings.scale, rows=embeddings.rows)


OBJECTIVE = ThreeTowers
