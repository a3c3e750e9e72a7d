"""Contrastive relational distillation: the image–text similarities of a pair of teachers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from losses.objective import Embeddings, Needs, Objective, TeacherFacts, Widths, aligned
from losses.projections import TeacherEmbedding
from losses.relational import relational


class ContrastiveRelational(Objective):
    """``½ (L_{f↔g} + w KL(p qᵀ ‖ f gᵀ))`` with an image teacher p and a text teacher q that share one space.

    Yang et al., CLIP-KD, arXiv 2307.12732, section 3.2. The two teachers are the towers of one image–text model.

    Attributes:
        weight: w, the weight of the KL divergence, from 0 on.
        teacher_temperature: τ of the teachers' similarities, above 0; it is not learned.
    """

    wants_teacher: ClassVar[bool] = True

    weight: float = Field(default=1.0, ge=0)
    teacher_temperature: float = Field(default=0.07, gt=0)

    @property
    def needs(self) -> Needs:
        return Needs(teachers=("embedding",), gather=("image", "text", "teacher"), bias=self.initial_bias)

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        return TeacherEmbedding()

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        super().check(teachers, students)
        if [t.modality for t in teachers] != ["image", "text"] or teachers[0].width != teachers[1].width:
            given = ", ".join(f"{t.name} ({t.modality}, {t.width})" for t in teachers)
            raise ValueError(
                f"needs an image teacher and then a text teacher of one width, and is given {given}. "
                'Name such a pair, or set objective.name = "relational".'
            )

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        e = embeddings
        teachers = (t.gathered["teacher"] for t in e.teachers)
        image, text, image_teacher, text_teacher = aligned(e.gathered["image"], e.gathered["text"], *teachers)
        fixed = torch.full_like(e.scale, 1 / self.teacher_temperature, dtype=torch.float64)
        fg = self.pairing(image, text, e)
        kl = relational(image, text, image_teacher, text_teacher, e.scale, fixed, rows=e.rows_of(image))
        return {"loss": (fg + self.weight * kl) / 2, "fg": fg.detach(), "kl": kl.detach()}


OBJECTIVE = ContrastiveRelational
