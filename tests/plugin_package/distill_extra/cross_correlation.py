"""An objective in the teacher's own space that compares samples: a cross-correlation over the whole batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from losses import Embeddings, Needs, Objective, TeacherFacts, Widths
from losses.projections import TeacherSpace


class CrossCorrelation(Objective):
    """``½ (L_{f↔g} + Σ_d (1 − C_dd)² / P)`` with C the correlation of student and teacher over the batch.

    Attributes:
        strength: the weight of the correlation.
    """

    wants_teacher = True

    strength: float = 1.0

    @property
    def needs(self) -> Needs:
        return Needs(teachers=("embedding",), gather=("image", "text", "image_h", "teacher_f"))

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        return TeacherSpace(teacher.width, students["image"]["embedding"], ("image",))

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        (teacher,) = embeddings.teachers
        student, target = (standardised(teacher.gathered[name]) for name in ("image_h", "teacher_f"))
        correlation = (1 - (student * target).mean(dim=0)).square().mean()
        fg = self.pairing(embeddings.gathered["image"], embeddings.gathered["text"], embeddings)
        loss = (fg + self.strength * correlation) / 2
        return {"loss": loss, "fg": fg.detach(), "correlation": correlation.detach()}


def standardised(rows: torch.Tensor) -> torch.Tensor:
    """[N, P] with mean 0 and variance 1 over the batch."""
    return (rows - rows.mean(dim=0)) / (rows.var(dim=0, unbiased=False) + 1e-5).sqrt()
