"""Relational distillation: the students' similarities between samples follow the teacher's."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from losses.objectives.base import Embeddings, Needs, Teaching
from losses.objectives.transfer import Transfer
from losses.relational import relational


class Relational(Transfer):
    """Within each student, the similarities of the batch's samples follow those within the teacher.

    The terms are ``KL(p pᵀ ‖ f fᵀ)`` and ``KL(p pᵀ ‖ g gᵀ)``, each sample's distribution over the *other* samples.
    They need one teacher, of images or of texts; ``crd`` compares images with texts, and needs both.

    Attributes:
        teacher_temperature: τ of the teacher's similarities; fixed.
    """

    teacher_temperature: float = Field(default=0.07, gt=0)

    @property
    def needs(self) -> Needs:
        return replace(super().needs, space="raw")

    def image_term(self, teaching: Teaching, embeddings: Embeddings, term: int) -> torch.Tensor:
        return self.within(embeddings.image, teaching, embeddings)

    def text_term(self, teaching: Teaching, embeddings: Embeddings, term: int) -> torch.Tensor:
        return self.within(embeddings.text, teaching, embeddings)

    def within(self, student: torch.Tensor, teaching: Teaching, embeddings: Embeddings) -> torch.Tensor:
        """The KL divergence of one student's similarities from one teacher's."""
        teacher, scale = teaching.teacher, embeddings.scale
        assert teacher is not None
        fixed = torch.full_like(scale, 1 / self.teacher_temperature, dtype=torch.float64)
        return relational(student, student, teacher, teacher, scale, fixed, without_self=True, rows=embeddings.rows)


OBJECTIVE = Relational
