"""L2 transfer: the Three Towers paper's alternative to contrastive transfer."""

from __future__ import annotations

import torch

from losses.l2 import l2
from losses.objective import Embeddings
from losses.transfer import SharedSpaceTransfer


class L2Transfer(SharedSpaceTransfer):
    """Eq. 5 of arXiv 2305.16999: ``⅓ (L_{f↔g} + w/N Σ_i (‖f_h − h_f‖² + ‖g_h − h_g‖²))``."""

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings, term: int) -> torch.Tensor:
        return l2(student, teacher, rows=embeddings.rows_of(student))


OBJECTIVE = L2Transfer
