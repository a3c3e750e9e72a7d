"""Relational distillation: the students' similarities between samples are trained to match the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import nn

from losses.objective import Embeddings, Needs, TeacherFacts, TeacherRows, Widths, aligned
from losses.projections import TeacherEmbedding
from losses.relational import relational
from losses.transfer import Transfer


class Relational(Transfer):
    """Each student's similarities between the samples of a batch are trained to match the teacher's.

    The terms are ``KL(p pᵀ ‖ f fᵀ)`` and ``KL(p pᵀ ‖ g gᵀ)``, each sample's distribution over the *other* samples.
    They need a teacher of either modality; ``crd`` compares images with texts, and needs one of each.

    Attributes:
        teacher_temperature: τ of the teacher's similarities, above 0; it is not learned.
    """

    teacher_temperature: float = Field(default=0.07, gt=0)

    @property
    def needs(self) -> Needs:
        inherited = super().needs
        return replace(inherited, gather=(*inherited.students, "teacher"))

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        return TeacherEmbedding()

    def transfer(self, modality: str, teacher: TeacherRows, embeddings: Embeddings, term: int) -> torch.Tensor:
        """The KL divergence of one student's similarities from one teacher's."""
        student, target, scale = embeddings.gathered[modality], teacher.gathered["teacher"], embeddings.scale
        fixed = torch.full_like(scale, 1 / self.teacher_temperature, dtype=torch.float64)
        student, target = aligned(student, target)
        rows = embeddings.rows_of(student)
        return relational(student, student, target, target, scale, fixed, without_self=True, rows=rows)


OBJECTIVE = Relational
