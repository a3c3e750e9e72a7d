"""Feature distillation by cosine."""

from __future__ import annotations

import torch

from losses.features import cosine
from losses.objective import Embeddings
from losses.transfer import Transfer


class CosineFeatures(Transfer):
    """Each student, through one linear layer, points where the frozen teacher's embedding points."""

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings, term: int) -> torch.Tensor:
        return cosine(student, teacher)


OBJECTIVE = CosineFeatures
