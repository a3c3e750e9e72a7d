"""The base of objectives that transfer from teachers: an image–text term, and two transfer terms per teacher."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from losses.objective import Embeddings, Needs, Objective, OneOrMany, TeacherFacts, TeacherRows, Widths, aligned
from losses.projections import HEADS, LETTERS, Heads, SharedSpace, TeacherSpace

Term = Literal["fg", "fh", "gh"]
STUDENT_OF = {"fh": "image", "gh": "text"}  # the student of each transfer term


class Transfer(Objective):
    """``(L_{f↔g} + w Σ_k w_k (T(f_h, h_f)_k + T(g_h, h_g)_k)) / n`` for K teachers, n = 1 + 2K terms.

    With one teacher of weight 1 this is Eq. 1 of arXiv 2305.16999 (T contrastive) or its Eq. 5 (T squared
    distance). Without a term, the loss is the mean of the others, as in its section E.5. A subclass defines T.

    Attributes:
        weight: w, the weight of the transfer terms, from 0 on; 1 in the paper.
        terms: which terms are kept, a list: "fg" between the students, "fh" from teacher to image student, "gh" from
            teacher to text student; at least one of the last two.
    """

    wants_teacher: ClassVar[bool] = True

    weight: float = Field(default=1.0, ge=0)
    terms: OneOrMany[Term] = ("fg", "fh", "gh")

    @field_validator("terms")
    @classmethod
    def check_terms(cls, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        if len(set(terms)) < len(terms):
            raise ValueError("names a term twice")
        if not {"fh", "gh"} & set(terms):
            raise ValueError('keeps no transfer term; without one this is objective.name = "contrastive"')
        return terms

    @property
    def transferred(self) -> tuple[str, ...]:
        """The modalities of the students that are compared with a teacher."""
        return tuple(modality for term, modality in STUDENT_OF.items() if term in self.terms)

    @property
    def needs(self) -> Needs:
        read = ("image", "text") if "fg" in self.terms else self.transferred
        return Needs(
            students={modality: ("embedding",) for modality in read},
            teachers=("embedding",),
            gather=("image", "text") if "fg" in self.terms else (),
            bias=self.initial_bias,
        )

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        return TeacherSpace(teacher.width, common_width(students), self.transferred)

    def transfer(self, modality: str, teacher: TeacherRows, embeddings: Embeddings, term: int) -> torch.Tensor:
        """T for one student and one teacher, a scalar: this process's part of the mean over the samples of both.

        Args:
            modality: the modality of the student.
            teacher: the rows of the teacher.
            embeddings: the inputs of the objective.
            term: the number of the term, see :meth:`Objective.pairing`.
        """
        student, target = teacher.local[f"{modality}_h"], teacher.local[f"teacher_{LETTERS[modality]}"]
        student, target = aligned(student, target)
        return self.term(student, target, embeddings, term)

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings, term: int) -> torch.Tensor:
        """T, from the rows of a student and of a teacher; arguments as in :meth:`transfer`."""
        raise TypeError(f"{type(self).__name__} does not say what its transfer term is.")

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        e, values = embeddings, dict[str, torch.Tensor]()
        if "fg" in self.terms:
            values["fg"] = self.pairing(e.gathered["image"], e.gathered["text"], e)
        for offset, (name, modality) in enumerate(STUDENT_OF.items(), 1):
            if name in self.terms:
                parts = [t.weight * self.transfer(modality, t, e, 2 * k + offset) for k, t in enumerate(e.teachers)]
                values[name] = torch.stack(parts).sum()
        weighted = [(1.0 if name == "fg" else self.weight) * value for name, value in values.items()]
        count = sum(1 if name == "fg" else len(e.teachers) for name in values)
        return {"loss": torch.stack(weighted).sum() / count} | {name: value.detach() for name, value in values.items()}


class SharedSpaceTransfer(Transfer):
    """A transfer in a shared space of width D, through adapter and heads.

    Attributes:
        heads: which heads are learned: "default" all four, "third" the teacher's, "main" the students', "none" no
            head, or "independent" all four and two more for f↔g (section E.5 of the paper).
        adapter: what maps the teacher's embedding to D dimensions: "linear", one linear layer, or "mlp": linear to 4P,
            GELU, linear to D.
    """

    heads: Heads = "default"
    adapter: Literal["linear", "mlp"] = "linear"

    @property
    def needs(self) -> Needs:
        compared = {"image", "text"} if "fg" in self.terms else set[str]()
        for modality in self.transferred:
            compared |= set(self.sides(modality))
        inherited = super().needs
        return Needs(
            students=inherited.students,
            teachers=inherited.teachers,
            gather=tuple(sorted(compared)),
            folded=tuple(m for m, head in (("image", "f_g"), ("text", "g_f")) if head in HEADS[self.heads]),
            combinable=self.heads == "none",
            bias=inherited.bias,
        )

    def sides(self, modality: str) -> tuple[str, str]:
        """The names of the student's and the teacher's rows that are compared, which depend on the learned heads."""
        f, learned = LETTERS[modality], HEADS[self.heads]
        return (
            f"{modality}_h" if f"{f}_h" in learned else modality,
            f"teacher_{f}" if f"h_{f}" in learned else "teacher",
        )

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        return SharedSpace(teacher.width, common_width(students), self.transferred, self.heads, self.adapter)

    def transfer(self, modality: str, teacher: TeacherRows, embeddings: Embeddings, term: int) -> torch.Tensor:
        student, target = self.sides(modality)
        rows = embeddings.gathered if student == modality else teacher.gathered
        own, other = aligned(rows[student], teacher.gathered[target])
        return self.term(own, other, embeddings, term)

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        super().check(teachers, students)
        if self.heads == "independent" and "fg" not in self.terms:
            raise ValueError(
                'has heads = "independent", which adds heads to f↔g, and drops that term. '
                'Keep "fg" in objective.terms, or choose other heads.'
            )


def common_width(students: Mapping[str, Widths]) -> int:
    """D, the width of every student's embedding."""
    return next(iter(students.values()))["embedding"]
