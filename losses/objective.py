"""What an objective asks of towers and teachers, what it is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from losses.contrastive import contrastive
from losses.rows import ALL_ROWS
from losses.sigmoid import sigmoid

Modality = Literal["image", "text"]
Widths = Mapping[str, int]  # of a tower's or a teacher's outputs, by name


@dataclass(frozen=True)
class TeacherFacts:
    """What an objective may know of a teacher before it is loaded.

    Attributes:
        name: as the recipe has it.
        modality: of its input, "image" or "text".
        width: P, the width of its output "embedding".
        classes: C, the width of its output "logits"; 0 where it has no classifier.
        online: whether it runs while training, instead of once beforehand.
        tokens: the width of its output "tokens"; 0 where that is not known.
    """

    name: str
    modality: str
    width: int
    classes: int
    online: bool
    tokens: int = 0

    @property
    def widths(self) -> Widths:
        """The outputs it has, by name."""
        known = {"embedding": self.width, "logits": self.classes, "tokens": self.tokens}
        return {name: width for name, width in known.items() if width}


@dataclass(frozen=True)
class Needs:
    """What an objective asks for.

    Attributes:
        students: the outputs it reads of the student of each modality; a modality that is missing here is not read.
        teachers: the outputs it reads of every teacher; none where teachers are not used.
        gather: the names of the rows that it compares across samples: these are gathered from all processes. All
            others it is given for this process's samples only.
        folded: the modalities whose embedding goes through one more learned projection without bias, which is folded
            into the tower when it ships.
        combinable: whether the first teacher's adapter and the students share a space without heads, so that
            α·h(I) + (1 − α)·f(I) makes sense (arXiv 2305.16999, sections D.4 and E.4).
        temperatures: how many temperatures a run with K teachers learns.
        bias: the bias of the logits at the start; None where there is none.
        mixup: the largest share of another image that is mixed into an image, for teacher and student alike.
    """

    students: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"image": ("embedding",), "text": ("embedding",)}
    )
    teachers: tuple[str, ...] = ()
    gather: tuple[str, ...] = ("image", "text")
    folded: tuple[str, ...] = ()
    combinable: bool = False
    temperatures: Callable[[int], int] = lambda teachers: 1
    bias: float | None = None
    mixup: float = 0.0


class NamedRows(dict[str, torch.Tensor]):
    """Rows by name; a name that is not there is an error that says which ones are."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise KeyError(f"There are no rows '{name}' here, only {', '.join(self) or 'none'}; see Needs.gather.")


@dataclass(frozen=True)
class TeacherRows:
    """What a teacher's projection made of a batch, see :meth:`Objective.projection`.

    Attributes:
        gathered: [N, W], by the names in ``Needs.gather``: rows of the global batch.
        local: [n, W], by all other names: rows of this process's samples.
        weight: w_k, the weight of this teacher.
    """

    gathered: Mapping[str, torch.Tensor] = field(default_factory=NamedRows)
    local: Mapping[str, torch.Tensor] = field(default_factory=NamedRows)
    weight: float = 1.0


@dataclass(frozen=True)
class Embeddings:
    """Everything an objective may read.

    Attributes:
        gathered: by the names in ``Needs.gather``, rows of the global batch in sample order: "image" and "text" are
            [N, D] unit rows, ``f(I)`` and ``g(T)``; "image_tokens" [N, T, W] the output "tokens" of the image student.
        local: by all other names, the same rows of this process's samples only.
        scale: [1], the inverse temperature 1/τ of all terms; or one a term, [1 + 2K] for K teachers.
        bias: as ``scale``; only the sigmoid loss has it.
        teachers: one :class:`TeacherRows` a teacher; empty where ``Needs.teachers`` is.
        rows: the rows of the global batch that are this process's samples.
    """

    gathered: Mapping[str, torch.Tensor]
    scale: torch.Tensor
    teachers: tuple[TeacherRows, ...] = ()
    rows: slice = field(default_factory=lambda: ALL_ROWS)
    bias: torch.Tensor | None = None
    local: Mapping[str, torch.Tensor] = field(default_factory=NamedRows)


class Objective(BaseModel):
    """A named combination of losses. Its fields are the options of the recipe's ``[objective]`` table.

    Attributes:
        pair: the loss between two towers: "softmax" (CLIP, Three Towers) or "sigmoid" (SigLIP).
        bias: bias of the logits at the start, with pair = "sigmoid"; it is learned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pair: Literal["softmax", "sigmoid"] = "softmax"
    bias: float = -10.0

    wants_teacher: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        """What towers and teachers must provide."""
        return Needs(bias=self.start_bias)

    @property
    def start_bias(self) -> float | None:
        return self.bias if self.pair == "sigmoid" else None

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        """Raise ``ValueError`` if the objective makes no sense with such teachers and students, with what to do.

        Args:
            teachers: in the order of the recipe.
            students: the modalities of the students.
        """
        if missing := [modality for modality in self.needs.students if modality not in students]:
            raise ValueError(
                f"compares what the {missing[0]} student gives, and the recipe has no {missing[0]} student. "
                f"Add student.{missing[0]}, or choose an objective or terms without it."
            )
        if self.wants_teacher and not teachers:
            raise ValueError(
                "transfers from a teacher, and the recipe names none. "
                'Add a [[teacher]] table, or set objective.name = "contrastive".'
            )
        for teacher in teachers if self.needs.teachers else ():
            if lacking := [output for output in self.needs.teachers if output not in teacher.widths]:
                raise ValueError(
                    f"reads the output '{lacking[0]}', which the teacher '{teacher.name}' does not have. "
                    "Choose another teacher or another objective."
                )

    def projection(self, teacher: TeacherFacts, students: Mapping[str, Widths]) -> nn.Module:
        """The learned layers between the students and one teacher, which are thrown away after training.

        Called once a teacher where ``needs.teachers`` names any output.

        Args:
            teacher: what is known of it.
            students: the widths of every student's outputs, by modality.

        Returns:
            A module; see :class:`losses.projections.Projection` for its call.
        """
        raise TypeError(f"{type(self).__name__} reads outputs of teachers and does not say what becomes of them.")

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        """Named scalar terms of the batch; ``loss`` is optimised, the others are only logged."""
        raise TypeError(f"{type(self).__name__} does not say how it is computed.")

    def pairing(self, a: torch.Tensor, b: torch.Tensor, embeddings: Embeddings, term: int = 0) -> torch.Tensor:
        """The loss between two towers, [N, D] unit rows each, with the temperature of a term.

        Terms are numbered as :class:`Embeddings` orders temperatures: 0 is f↔g, then two a teacher.
        """
        which = slice(term, term + 1) if len(embeddings.scale) > 1 else slice(None)
        numbers = [x[which] for x in (embeddings.scale, embeddings.bias) if x is not None]
        return PAIRS[self.pair](a, b, *numbers, rows=embeddings.rows)


PAIRS: dict[str, Callable[..., torch.Tensor]] = {"softmax": contrastive, "sigmoid": sigmoid}
