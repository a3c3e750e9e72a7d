"""Feature distillation with the cosine distance."""

from __future__ import annotations

import torch

from losses.features import cosine
from losses.objective import Embeddings
from losses.transfer import Transfer


class CosineFeatures(Transfer):
    """Each student, through a linear layer, is trained to have the direction of the teacher's embedding."""

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings, term: int) -> torch.Tensor:
        return cosine(student, teacher)


OBJECTIVE = CosineFeatures
