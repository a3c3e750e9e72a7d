"""What an objective is given, what it asks of the model, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict

from losses.contrastive import contrastive
from losses.rows import ALL_ROWS
from losses.sigmoid import sigmoid


@dataclass(frozen=True)
class Teaching:
    """One teacher's side of a batch; what an objective's :class:`Needs` do not ask for is None.

    Attributes:
        image_h, teacher_f, text_h, teacher_g: ``f_h, h_f, g_h, h_g``. In the shared space [N, D] unit rows of the
            global batch; in the teacher's space this process's rows alone, [n, P], as they come.
        teacher: [N, P] unit rows of the global batch, the teacher's embedding itself.
        student_logits, teacher_logits: [n, C], this process's rows.
        weight: w_k, the weight of this teacher.
    """

    image_h: torch.Tensor | None = None
    teacher_f: torch.Tensor | None = None
    text_h: torch.Tensor | None = None
    teacher_g: torch.Tensor | None = None
    teacher: torch.Tensor | None = None
    student_logits: torch.Tensor | None = None
    teacher_logits: torch.Tensor | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Embeddings:
    """Everything an objective may look at: the global batch, gathered, in sample order.

    Attributes:
        image: [N, D] unit rows, ``f(I)``.
        text: [N, D] unit rows, ``g(T)``.
        scale: [1], the inverse temperature 1/τ of all terms; or one a term, [1 + 2K] for K teachers.
        bias: as ``scale``; only the sigmoid loss has it.
        teachers: one :class:`Teaching` a teacher; empty when the objective wants none.
        rows: the rows of the batch this process answers for.
    """

    image: torch.Tensor
    text: torch.Tensor
    scale: torch.Tensor
    teachers: tuple[Teaching, ...] = ()
    rows: slice = field(default_factory=lambda: ALL_ROWS)
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Facts:
    """What an objective may know of a teacher before it is loaded.

    Attributes:
        name: as the recipe has it.
        modality: what it looks at, "image" or "text".
        width: P.
        classes: of its classifier; 0 where it has none.
        online: whether it runs while training, instead of once beforehand.
    """

    name: str
    modality: str
    width: int
    classes: int
    online: bool


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the model.

    Attributes:
        space: where students and teacher meet. "none": nowhere; "shared": in D dimensions, through adapter and
            heads; "teacher": in the teacher's own P dimensions, through one linear layer a student; "raw": they do
            not, but the teacher's embedding is there; "logits": at the teacher's classes.
        students: which students meet the teacher, of "f" (image) and "g" (text).
        heads: which of the heads of a shared space are learned, see :data:`HEADS`.
        adapter: "linear" or "mlp".
        temperatures: how many a run with K teachers learns.
        bias: the bias at the start; None where there is none.
        mixup: the largest share of another image that is mixed into an image, for teacher and student alike.
    """

    space: Literal["none", "shared", "teacher", "raw", "logits"] = "none"
    students: tuple[Literal["f", "g"], ...] = ("f", "g")
    heads: str = "default"
    adapter: str = "linear"
    temperatures: Callable[[int], int] = lambda teachers: 1
    bias: float | None = None
    mixup: float = 0.0


# Which projections are learned; the others are identities. f_h, g_h: students to teacher; h_f, h_g: teacher to
# students; f_g, g_f: students to each other. Three Towers, arXiv 2305.16999, section E.5.
HEADS: dict[str, frozenset[str]] = {
    "default": frozenset({"f_h", "g_h", "h_f", "h_g"}),
    "third": frozenset({"h_f", "h_g"}),
    "main": frozenset({"f_h", "g_h"}),
    "none": frozenset(),
    "independent": frozenset({"f_h", "g_h", "h_f", "h_g", "f_g", "g_f"}),
}


class Objective(BaseModel):
    """A named combination of losses. Its fields are the options of the recipe's ``[objective]`` table.

    Attributes:
        pair: the loss between two towers: "softmax" (CLIP, 3T) or "sigmoid" (SigLIP).
        bias: of the sigmoid loss, at the start; learned from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pair: Literal["softmax", "sigmoid"] = "softmax"
    bias: float = -10.0

    wants_teacher: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        """What the model must provide."""
        return Needs(bias=self.start_bias)

    @property
    def start_bias(self) -> float | None:
        return self.bias if self.pair == "sigmoid" else None

    def check(self, teachers: Sequence[Facts]) -> None:
        """Raise ``ValueError`` if the objective makes no sense with such teachers, saying why and what to do."""
        if self.wants_teacher and not teachers:
            raise ValueError(
                "transfers from a teacher, and the recipe names none. "
                'Add a [[teacher]] table, or set objective.name = "contrastive".'
            )

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        """Named scalar terms of the batch; ``loss`` is optimised, the others are only logged."""
        raise TypeError(f"{type(self).__name__} does not say how it is computed.")

    def pairing(self, a: torch.Tensor, b: torch.Tensor, embeddings: Embeddings, term: int = 0) -> torch.Tensor:
        """The loss between two towers, [N, D] unit rows each, with the temperature of a term.

        Terms are numbered as :class:`Embeddings` orders temperatures: 0 is f↔g, then two a teacher.
        """
        which = slice(term, term + 1) if len(embeddings.scale) > 1 else ALL_ROWS
        numbers = [x[which] for x in (embeddings.scale, embeddings.bias) if x is not None]
        return PAIRS[self.pair](a, b, *numbers, rows=embeddings.rows)


PAIRS: dict[str, Callable[..., torch.Tensor]] = {"softmax": contrastive, "sigmoid": sigmoid}
