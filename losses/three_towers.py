"""The loss of the Three Towers paper as one function."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from losses.contrastive import contrastive
from losses.rows import ALL_ROWS
from losses.sigmoid import sigmoid

TERMS = ("fg", "fh", "gh")


def three_towers(
    image: torch.Tensor,
    text: torch.Tensor,
    image_h: torch.Tensor,
    teacher_f: torch.Tensor,
    text_h: torch.Tensor,
    teacher_g: torch.Tensor,
    scale: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    weight: float = 1.0,
    terms: Sequence[str] = TERMS,
    rows: slice = ALL_ROWS,
    tile: int | None = None,
) -> torch.Tensor:
    """Mean of three contrastive losses, ``⅓ (L_{f↔g} + w (L_{f_h↔h_f} + L_{g_h↔h_g}))``.

    Args:
        image: [N, D] unit rows, ``f(I)``.
        text: [N, D] unit rows, ``g(T)``.
        image_h: [N, D] unit rows, ``f_h(I)``, the image tower through its head.
        teacher_f: [N, D] unit rows, ``h_f(I)``, the teacher through its head for the image tower.
        text_h: [N, D] unit rows, ``g_h(T)``, the text tower through its head.
        teacher_g: [N, D] unit rows, ``h_g(I)``, the teacher through its head for the text tower.
        scale: [1], the inverse temperature 1/τ of all terms; or [3], one each, in the order of :data:`TERMS`.
        bias: [1] or [3]: compute the terms with the sigmoid loss and this bias, instead of the softmax loss.
        weight: w, the weight of the two transfer terms; 1 in the paper.
        terms: which of "fg", "fh" and "gh" are computed; the mean is over these.
        rows: the rows of the global batch over which this process takes the mean; default all.
        tile: side of a tile; default one that is fast on the device.

    Returns:
        Scalar: the mean over ``rows``.

    Raises:
        ValueError: if the shapes do not fit, an embedding is not finite, or a term is unknown.

    References:
        Kossen et al., Three Towers, arXiv 2305.16999, Eq. 1; dropped terms and three temperatures: section E.5.
    """
    if not terms or set(terms) - set(TERMS) or len(set(terms)) < len(terms):
        found = ", ".join(map(repr, terms)) or "none"
        raise ValueError(f"The terms are {', '.join(TERMS)}; got {found}. Name some of them, none twice.")
    pairs = {"fg": (image, text), "fh": (image_h, teacher_f), "gh": (text_h, teacher_g)}
    weights = {"fg": 1.0, "fh": weight, "gh": weight}
    scales = per_term("scale", scale)
    if bias is None:
        values = [weights[t] * contrastive(*pairs[t], scales[t], rows=rows, tile=tile) for t in terms]
    else:
        biases = per_term("bias", bias)
        values = [weights[t] * sigmoid(*pairs[t], scales[t], biases[t], rows=rows, tile=tile) for t in terms]
    return torch.stack(values).sum() / len(values)


def per_term(name: str, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
    """One [1] tensor for every term; from [1], the same for all."""
    if numbers.shape not in ((1,), (len(TERMS),)):
        raise ValueError(f"{name} must have shape (1,); got {tuple(numbers.shape)}. Or give three, one a term.")
    return dict(zip(TERMS, numbers.expand(len(TERMS)).split(1), strict=True))
