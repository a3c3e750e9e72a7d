"""CLIP-KD's loss: features, relations and contrasts between the students and a pair of teachers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize

from losses.contrastive import one_way
from losses.l2 import l2
from losses.objective import Embeddings, Needs, Objective, TeacherFacts, TeacherRows, Widths, aligned
from losses.pairs import PairedTeacher, check_pairs, divergence, pair_weight, pairs


class ClipKD(Objective):
    """``L_{f↔g} + 1/K Σ_k w_k (λ_FD FD_k + λ_CRD CRD_k + λ_ICL ICL_k)`` with K pairs of an image and a text teacher.

    Yang et al., CLIP-KD, arXiv 2307.12732, section 3.2, with one pair: p and q, of unit length, are what its teachers
    give; f' and g' are the students' embeddings, through a learned linear layer each where the widths differ.

    - FD, feature distillation: the mean squared errors of f' from p and of g' from q, over samples and dimensions.
    - CRD, contrastive relational distillation: as the objective ``crd``, at the pair's own temperature.
    - ICL, interactive contrastive learning: ``½ (L_{f'→q} + L_{g'→p})``, in which each student finds its pair among
      the other modality's teacher embeddings; it has a learned temperature of its own.

    w_k is the mean of the weights of the pair's two teachers.

    Attributes:
        fd: λ_FD, from 0 on; a term of weight 0 is not computed.
        crd: λ_CRD, from 0 on.
        icl: λ_ICL, from 0 on.
        teacher_temperature: τ of the teachers' similarities in CRD, above 0; 0: each pair's own, with which it was
            trained.
    """

    wants_teacher: ClassVar[bool] = True

    fd: float = Field(default=2000.0, ge=0)
    crd: float = Field(default=1.0, ge=0)
    icl: float = Field(default=1.0, ge=0)
    teacher_temperature: float = Field(default=0.0, ge=0)

    @property
    def needs(self) -> Needs:
        compared = ("image", "text", "image_teacher", "text_teacher")
        return Needs(
            teachers=("embedding",),
            gather=(*compared, "image_student", "text_student") if self.fd or self.icl else compared,
            bias=self.initial_bias,
            temperatures=lambda teachers: 2 if self.icl else 1,
        )

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        width = students[teacher.modality]["embedding"] if self.fd or self.icl else 0
        return PairedTeacher(teacher, width, self.teacher_temperature if self.crd else 1.0)

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        super().check(teachers, students)
        check_pairs(teachers, self.teacher_temperature if self.crd else 1.0)

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        e = embeddings
        terms = {
            "fd": (self.fd, self.features),
            "crd": (self.crd, divergence),
            "icl": (self.icl, self.contrasts),
        }
        loss = self.pairing(e.gathered["image"], e.gathered["text"], e)
        logged = {"fg": loss.detach()}
        for name, (weight, term) in terms.items():
            if weight:
                parts = [pair_weight(p, q) * term(p, q, e) for p, q in pairs(e)]
                value = torch.stack(parts).mean()
                loss, logged = loss + weight * value, logged | {name: value.detach()}
        return {"loss": loss} | logged

    def features(self, p: TeacherRows, q: TeacherRows, e: Embeddings) -> torch.Tensor:
        """FD of one pair; that of images is over all samples, that of texts over captioned ones."""
        sides = [(p.gathered["image_student"], p.gathered["image_teacher"])]
        sides += [(q.gathered["text_student"], q.gathered["text_teacher"])]
        errors = [l2(own, normalize(other, dim=1), rows=e.rows_of(own)) / own.shape[1] for own, other in sides]
        return errors[0] + errors[1]

    def contrasts(self, p: TeacherRows, q: TeacherRows, e: Embeddings) -> torch.Tensor:
        """ICL of one pair."""
        image, text_teacher = aligned(p.gathered["image_student"], normalize(q.gathered["text_teacher"], dim=1))
        text, image_teacher = aligned(q.gathered["text_student"], normalize(p.gathered["image_teacher"], dim=1))
        scale, rows = e.scale[1:2], e.rows_of(image)
        return (one_way(image, text_teacher, scale, rows=rows) + one_way(text, image_teacher, scale, rows=rows)) / 2


OBJECTIVE = ClipKD
