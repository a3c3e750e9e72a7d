"""What every objective with a teacher shares: image–text, plus one image and one text transfer term a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from losses.objectives.base import Embeddings, Facts, Needs, Objective, Teaching

Term = Literal["fg", "fh", "gh"]


class Transfer(Objective):
    """``(L_{f↔g} + w Σ_k w_k (T(f_h, h_f)_k + T(g_h, h_g)_k)) / n`` for K teachers, n = 1 + 2K terms.

    With one teacher of weight 1 this is Eq. 1 of arXiv 2305.16999 (T contrastive) or its Eq. 5 (T squared
    distance). A dropped term leaves the mean over the others, as in its section E.5. A subclass says what T is.

    Attributes:
        weight: w, the weight of the transfer terms; 1 in the paper.
        terms: which are kept: "fg" between the students, "fh" from teacher to image, "gh" from teacher to text.
    """

    wants_teacher: ClassVar[bool] = True

    weight: float = Field(default=1.0, ge=0)
    terms: tuple[Term, ...] = ("fg", "fh", "gh")

    @field_validator("terms", mode="before")
    @classmethod
    def one_or_many(cls, terms: Any) -> Any:
        return (terms,) if isinstance(terms, str) else terms

    @field_validator("terms")
    @classmethod
    def some_transfer(cls, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        if len(set(terms)) < len(terms):
            raise ValueError("names a term twice")
        if not {"fh", "gh"} & set(terms):
            raise ValueError('keeps no transfer term; without one this is objective.name = "contrastive"')
        return terms

    @property
    def students(self) -> tuple[Literal["f", "g"], ...]:
        """The students that meet the teacher."""
        return tuple(student for student in ("f", "g") if f"{student}h" in self.terms)

    @property
    def needs(self) -> Needs:
        return Needs(space="teacher", students=self.students, bias=self.start_bias)

    def image_term(self, teaching: Teaching, embeddings: Embeddings, term: int) -> torch.Tensor:
        """T of the image student, a scalar over ``embeddings.rows``; ``term`` numbers its temperature."""
        assert teaching.image_h is not None and teaching.teacher_f is not None
        return self.term(teaching.image_h, teaching.teacher_f, embeddings, term)

    def text_term(self, teaching: Teaching, embeddings: Embeddings, term: int) -> torch.Tensor:
        """T of the text student."""
        assert teaching.text_h is not None and teaching.teacher_g is not None
        return self.term(teaching.text_h, teaching.teacher_g, embeddings, term)

    def term(self, student: torch.Tensor, teacher: torch.Tensor, embeddings: Embeddings, term: int) -> torch.Tensor:
        """T, from the rows of a student and the teacher's."""
        raise TypeError(f"{type(self).__name__} does not say what its transfer term is.")

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        e = embeddings
        values = {"fg": self.pairing(e.image, e.text, e)} if "fg" in self.terms else {}
        for name, term, offset in (("fh", self.image_term, 1), ("gh", self.text_term, 2)):
            if name in self.terms:
                parts = [t.weight * term(t, e, 2 * k + offset) for k, t in enumerate(e.teachers)]
                values[name] = torch.stack(parts).sum()
        weighted = [(1.0 if name == "fg" else self.weight) * value for name, value in values.items()]
        count = sum(1 if name == "fg" else len(e.teachers) for name in values)
        return {"loss": torch.stack(weighted).sum() / count} | {name: value.detach() for name, value in values.items()}


class SharedSpaceTransfer(Transfer):
    """A transfer in the shared space of D dimensions, through adapter and heads.

    Attributes:
        heads: which heads are learned: "default" all four, "third" the teacher's, "main" the students', "none", or
            "independent": two more for f↔g (section E.5 of the paper).
        adapter: "linear", or "mlp": Linear to 4P, GELU, Linear to D.
    """

    heads: Literal["default", "third", "main", "none", "independent"] = "default"
    adapter: Literal["linear", "mlp"] = "linear"

    @property
    def needs(self) -> Needs:
        return Needs(
            space="shared",
            students=self.students,
            heads=self.heads,
            adapter=self.adapter,
            bias=self.start_bias,
        )

    def check(self, teachers: Sequence[Facts]) -> None:
        super().check(teachers)
        if self.heads == "independent" and "fg" not in self.terms:
            raise ValueError(
                'has heads = "independent", which adds heads to f↔g, and drops that term. '
                'Keep "fg" in objective.terms, or choose other heads.'
            )
