"""What every objective with heads shares: image–text, plus one image and one text transfer term a teacher."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from losses.contrastive import contrastive
from losses.objective import Embeddings, Objective


class Transfer(Objective):
    """``(L_{f↔g} + w Σ_k w_k (T(f_h, h_f)_k + T(g_h, h_g)_k)) / (1 + 2K)`` for K teachers.

    With one teacher of weight 1 this is Eq. 1 of arXiv 2305.16999 (T contrastive) or its Eq. 5 (T squared
    distance). A subclass says what T is.
    """

    uses_heads: ClassVar[bool] = True

    weight: float = Field(default=1.0, ge=0, description="w, the weight of the transfer terms")

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings) -> torch.Tensor:
        """T: one scalar from [N, D] student and [N, D] teacher rows, over ``embeddings.rows``."""
        raise TypeError(f"{type(self).__name__} does not say what its transfer term is.")

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        e = embeddings
        fg = contrastive(e.image, e.text, e.scale, rows=e.rows)
        fh = sum((t.weight * self.term(t.image_h, t.teacher_f, e) for t in e.teachers), torch.zeros_like(fg))
        gh = sum((t.weight * self.term(t.text_h, t.teacher_g, e) for t in e.teachers), torch.zeros_like(fg))
        loss = (fg + self.weight * (fh + gh)) / (1 + 2 * len(e.teachers))
        return {"loss": loss, "fg": fg.detach(), "fh": fh.detach(), "gh": gh.detach()}
