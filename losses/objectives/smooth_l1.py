"""Feature distillation with the smooth L1 loss."""

from __future__ import annotations

import torch
from pydantic import Field

from losses.features import smooth_l1
from losses.objective import Embeddings
from losses.transfer import Transfer


class SmoothL1Features(Transfer):
    """Each student, through a linear layer, predicts the teacher's standardised embedding (arXiv 2205.14141).

    Attributes:
        beta: absolute difference, above 0, from which on the loss grows linearly; below it grows with the square.
    """

    beta: float = Field(default=2.0, gt=0)

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings, term: int) -> torch.Tensor:
        return smooth_l1(student, teacher, beta=self.beta)


OBJECTIVE = SmoothL1Features
