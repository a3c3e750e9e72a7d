"""Function matching: the image student reproduces the class probabilities of a teacher with a classifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from losses.features import kl
from losses.objective import Embeddings, Needs, Objective, OneOrMany, TeacherFacts, Widths
from losses.projections import Classifier


class FunctionMatching(Objective):
    """``(L_{f↔g} + w Σ_k w_k KL_k) / (1 + K)``, with the KL divergence of the image student's class
    probabilities from those of each teacher; without the term "fg", ``w Σ_k w_k KL_k / K``.

    "A good teacher is patient and consistent" (arXiv 2106.05237): teacher and student get the same view, and with
    ``mixup`` the same mixture of two images, so that the student matches the teacher as a function and not only on
    the training images. Mixtures change every epoch, so with ``mixup`` teachers must run online.

    Attributes:
        weight: w, the weight of the KL divergences, from 0 on.
        terms: which terms are kept, a list: "fg" between the students, "fh", the KL divergences; the latter always.
        temperature: T of the softmax of teacher and student, above 0.
        mixup: the largest share, 0 to 1, of its neighbour in the batch that is mixed into an image; shares from 0 to
            it are equally likely. 0 mixes nothing; above 0 all teachers must run online.
    """

    wants_teacher: ClassVar[bool] = True

    weight: float = Field(default=1.0, ge=0)
    terms: OneOrMany[Literal["fg", "fh"]] = ("fg", "fh")
    temperature: float = Field(default=1.0, gt=0)
    mixup: float = Field(default=0.0, ge=0, le=1)

    @field_validator("terms")
    @classmethod
    def check_terms(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        if "fh" not in terms or len(set(terms)) < len(terms):
            raise ValueError('must hold "fh", and no term twice; without it this is objective.name = "contrastive"')
        return terms

    @property
    def needs(self) -> Needs:
        compared = ("image", "text") if "fg" in self.terms else ()
        return Needs(
            students={modality: ("embedding",) for modality in compared or ("image",)},
            teachers=("logits",),
            gather=compared,
            bias=self.initial_bias,
            mixup=self.mixup,
        )

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        return Classifier(teacher.classes, students["image"]["embedding"])

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        for teacher in teachers:
            if not teacher.classes or teacher.modality != "image":
                raise ValueError(
                    f"matches a classifier's answers, and the teacher '{teacher.name}' has none. "
                    'Choose an image teacher with classes, or set objective.name = "three_towers".'
                )
            if self.mixup and not teacher.online:
                raise ValueError(
                    f"mixes different images each epoch, which no cache of '{teacher.name}' can hold. "
                    'Set teacher.N.cache = "none", or objective.mixup = 0.'
                )
        super().check(teachers, students)

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        parts = []
        for t in embeddings.teachers:
            student, teacher = t.local["student_logits"], t.local["teacher_logits"]
            parts.append(t.weight * kl(student, teacher, temperature=self.temperature))
        total = torch.stack(parts).sum()
        if "fg" not in self.terms:
            return {"loss": self.weight * total / len(parts), "kl": total.detach()}
        fg = self.pairing(embeddings.gathered["image"], embeddings.gathered["text"], embeddings)
        return {"loss": (fg + self.weight * total) / (1 + len(parts)), "fg": fg.detach(), "kl": total.detach()}


OBJECTIVE = FunctionMatching
