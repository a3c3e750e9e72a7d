"""The interface of objectives: what they need from towers and teachers, their inputs, and their outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeVar

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import nn

from losses.contrastive import contrastive
from losses.rows import ALL_ROWS
from losses.sigmoid import sigmoid

T = TypeVar("T")
OneOrMany = Annotated[tuple[T, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Widths = Mapping[str, int]  # the width of each output of a tower or a teacher, by name


@dataclass(frozen=True)
class TeacherFacts:
    """The facts about a teacher that are known before it is loaded.

    Attributes:
        name: the name of its card.
        modality: that of its input, "image" or "text".
        width: P, the width of its output "embedding".
        classes: C, the width of its output "logits"; 0 without a classifier.
        online: whether it runs during training, instead of filling a cache before.
        tokens: the width of its output "tokens"; 0 if it is not known.
        temperature: τ of the pair of towers to which it belongs, see ``Card.temperature``; 0 if it is not known.
    """

    name: str
    modality: str
    width: int
    classes: int
    online: bool
    tokens: int = 0
    temperature: float = 0.0

    @property
    def widths(self) -> Widths:
        """The widths of its outputs, by name."""
        widths = {"embedding": self.width, "logits": self.classes, "tokens": self.tokens}
        return {name: width for name, width in widths.items() if width}


@dataclass(frozen=True)
class Needs:
    """What an objective needs from students, teachers and the model.

    Attributes:
        students: by modality, the outputs that it reads from that student; a modality that is missing is not read.
        teachers: the outputs that it reads from every teacher; empty if it reads no teacher.
        gather: the names of the rows that it compares across samples, which are gathered from all processes. It gets
            all other rows for this process's samples only.
        folded: the modalities whose embedding goes through another learned projection without bias, which an export
            folds into the tower.
        combinable: whether the first teacher's adapter and the students share a space without heads, as the
            combination α·h(I) + (1 − α)·f(I) requires (arXiv 2305.16999, sections D.4 and E.4).
        temperatures: a function from K, the number of teachers, to the number of learned temperatures.
        bias: the initial bias of the logits; None for no bias.
        mixup: the largest share of another image that is mixed into an image, the same for teacher and student.
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
    """Rows by name; the ``KeyError`` for a missing name lists the existing ones."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise KeyError(f"There are no rows '{name}' here, only {', '.join(self) or 'none'}; see Needs.gather.")


@dataclass(frozen=True)
class TeacherRows:
    """The rows that a teacher's projection computed for a batch, see :meth:`Objective.projection`.

    Attributes:
        gathered: rows [N, W] of the global batch, by name, for the names in ``Needs.gather``.
        local: rows [n, W] of this process's samples, by name, for all other names.
        weight: w_k, the weight of this teacher.
    """

    gathered: Mapping[str, torch.Tensor] = field(default_factory=NamedRows)
    local: Mapping[str, torch.Tensor] = field(default_factory=NamedRows)
    weight: float = 1.0


@dataclass(frozen=True)
class Embeddings:
    """The inputs of an objective.

    A batch may hold images without captions beside captioned ones. The captioned samples come first in all rows, so
    rows of texts are fewer than rows of images, and row i of both is of the same sample; see :func:`aligned`.

    Attributes:
        gathered: by name, for the names in ``Needs.gather``, the rows of the global batch in sample order: "image" and
            "text" [N, D] unit rows, ``f(I)`` and ``g(T)``; "image_tokens" [N, T, W], the output "tokens" of the image
            student.
        local: by name, for all other names, the same rows [n, …] of this process's samples only.
        scale: [1], the inverse temperature 1/τ of all terms; or one per term, [1 + 2K] for K teachers.
        bias: of the same shape; None except with the sigmoid loss.
        teachers: one :class:`TeacherRows` for each teacher; empty if ``Needs.teachers`` is.
        rows: the rows of the global batch over which this process takes the mean.
        captioned: how many samples of the global batch have captions; 0 if all have.
        captioned_rows: the part of ``rows`` among those, which each process takes an equal part of.
    """

    gathered: Mapping[str, torch.Tensor]
    scale: torch.Tensor
    teachers: tuple[TeacherRows, ...] = ()
    rows: slice = field(default_factory=lambda: ALL_ROWS)
    bias: torch.Tensor | None = None
    local: Mapping[str, torch.Tensor] = field(default_factory=NamedRows)
    captioned: int = 0
    captioned_rows: slice = field(default_factory=lambda: ALL_ROWS)

    def rows_of(self, side: torch.Tensor) -> slice:
        """The rows over which this process takes the mean, of rows of all samples or of the captioned ones."""
        return self.captioned_rows if len(side) == self.captioned else self.rows


def aligned(*sides: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of the samples that all sides have: those of captioned samples, which come first in every side."""
    count = min(len(side) for side in sides)
    return tuple(side[:count] for side in sides)


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
        """What the objective needs from students, teachers and the model."""
        return Needs(bias=self.initial_bias)

    @property
    def initial_bias(self) -> float | None:
        """The initial bias of the logits; None without the sigmoid loss."""
        return self.bias if self.pair == "sigmoid" else None

    def check(self, teachers: Sequence[TeacherFacts], students: Collection[str] = ("image", "text")) -> None:
        """Raise ``ValueError`` with advice if the objective cannot be used with these teachers and students.

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
        """Build the learned layers between the students and one teacher, which exports leave out.

        Called once for each teacher if ``needs.teachers`` is not empty.

        Args:
            teacher: the facts about the teacher.
            students: the widths of every student's outputs, by modality.

        Returns:
            A module that is called as :class:`losses.projections.Projection` describes.
        """
        raise TypeError(f"{type(self).__name__} reads outputs of teachers and does not say what becomes of them.")

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        """The scalar terms of the batch by name; "loss" is optimised, the others are only logged."""
        raise TypeError(f"{type(self).__name__} does not say how it is computed.")

    def pairing(self, a: torch.Tensor, b: torch.Tensor, embeddings: Embeddings, term: int = 0) -> torch.Tensor:
        """The contrastive loss between two towers, unit rows [N, D], with the temperature of a term.

        Of rows of all samples and rows of the captioned ones, only the latter are compared.

        Terms are numbered in the order of the temperatures in :class:`Embeddings`: 0 is f↔g, then two per teacher.
        """
        own_term = slice(term, term + 1) if len(embeddings.scale) > 1 else slice(None)
        parameters = [x[own_term] for x in (embeddings.scale, embeddings.bias) if x is not None]
        a, b = aligned(a, b)
        return PAIRS[self.pair](a, b, *parameters, rows=embeddings.rows_of(a))


PAIRS: dict[str, Callable[..., torch.Tensor]] = {"softmax": contrastive, "sigmoid": sigmoid}
