"""MobileCLIP's loss: the image–text similarities of several pairs of teachers, at their own temperatures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from losses.objective import Embeddings, Needs, Objective, TeacherFacts, Widths
from losses.pairs import PairedTeacher, check_pairs, divergence, pair_weight, pairs


class MobileCLIP(Objective):
    """``(1 − λ) L_{f↔g} + λ/K Σ_k w_k KL(p_k q_kᵀ/τ_k ‖ f gᵀ/τ)`` with K pairs of an image and a text teacher.

    Vasu et al., MobileCLIP, arXiv 2311.17049, Eq. 1–3: the KL divergence, averaged over both directions, of the
    students' softmax over the batch from that of each pair of teachers, CLIPs or SigLIPs. w_k is the mean of the
    weights of the pair's two teachers.

    Attributes:
        share: λ, the share of the divergences in the loss, from 0 to 1.
        teacher_temperature: τ_k of all pairs, above 0; 0: each pair's own, with which it was trained.
    """

    wants_teacher: ClassVar[bool] = True

    share: float = Field(default=0.75, ge=0, le=1)
    teacher_temperature: float = Field(default=0.0, ge=0)

    @property
    def needs(self) -> Needs:
        return Needs(
            teachers=("embedding",),
            gather=("image", "text", "image_teacher", "text_teacher"),
            bias=self.initial_bias,
        )

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        return PairedTeacher(teacher, temperature=self.teacher_temperature)

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        super().check(teachers, students)
        check_pairs(teachers, self.teacher_temperature)

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        e = embeddings
        parts = [pair_weight(p, q) * divergence(p, q, e) for p, q in pairs(e)]
        fg = self.pairing(e.gathered["image"], e.gathered["text"], e)
        kl = torch.stack(parts).mean()
        return {"loss": (1 - self.share) * fg + self.share * kl, "fg": fg.detach(), "kl": kl.detach()}


OBJECTIVE = MobileCLIP
