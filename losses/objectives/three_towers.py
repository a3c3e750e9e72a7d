"""The Three Towers objective."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

import torch

from losses.objective import Embeddings, Needs, TeacherFacts
from losses.transfer import SharedSpaceTransfer


class ThreeTowers(SharedSpaceTransfer):
    """Eq. 1 of arXiv 2305.16999: all three terms contrastive.

    Attributes:
        temperatures: "shared", one temperature for all terms, or "own", one for each term (section E.5).
    """

    temperatures: Literal["shared", "own"] = "shared"

    @property
    def needs(self) -> Needs:
        count = {"shared": lambda teachers: 1, "own": lambda teachers: 1 + 2 * teachers}[self.temperatures]
        return replace(super().needs, temperatures=count)

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        super().check(teachers, students)
        if self.temperatures == "own" and "fg" not in self.terms:
            raise ValueError(
                'has temperatures = "own" and drops the term f↔g, whose temperature is exported: '
                "it would never be learned. "
                'Keep "fg" in objective.terms, or share one temperature.'
            )

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings, term: int) -> torch.Tensor:
        return self.pairing(student, teacher, embeddings, term)


OBJECTIVE = ThreeTowers
