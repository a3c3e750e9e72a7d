"""What an objective is given, what it returns, and how one is found by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict

from losses.rows import WHOLE


@dataclass(frozen=True)
class TeacherEmbeddings:
    """One teacher's side of a global batch: both students' and the teacher's heads, all [N, D] unit rows."""

    image_h: torch.Tensor
    teacher_f: torch.Tensor
    text_h: torch.Tensor
    teacher_g: torch.Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Embeddings:
    """Everything an objective may look at: the global batch, gathered, in sample order.

    Attributes:
        image: [N, D] unit rows, ``f(I)``.
        text: [N, D] unit rows, ``g(T)``.
        scale: [1], the inverse temperature 1/τ.
        teachers: one :class:`TeacherEmbeddings` a teacher; empty when the objective uses no heads.
        rows: the rows of the batch this process answers for.
    """

    image: torch.Tensor
    text: torch.Tensor
    scale: torch.Tensor
    teachers: tuple[TeacherEmbeddings, ...] = ()
    rows: slice = field(default_factory=lambda: WHOLE)


class Objective(BaseModel):
    """A named combination of losses. Its fields are the options of the recipe's ``[objective]`` table.

    Attributes:
        uses_heads: whether the model needs the adapter and the four heads of every teacher.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uses_heads: ClassVar[bool] = False

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        """Named scalar terms of the batch; ``loss`` is optimised, the others are only logged."""
        raise TypeError(f"{type(self).__name__} does not say how it is computed.")


def names() -> list[str]:
    """The objectives that exist: every module of this package that defines ``OBJECTIVE``, sorted."""
    package = importlib.import_module("losses")
    modules = (info.name for info in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in modules if hasattr(importlib.import_module(f"losses.{name}"), "OBJECTIVE"))


def objective(name: str, **options: Any) -> Objective:
    """The objective called ``name`` with its options.

    Args:
        name: a module of this package that defines ``OBJECTIVE``.
        **options: the fields of that class.

    Raises:
        LookupError: if there is no such objective; the message names the nearest one.
        pydantic.ValidationError: if an option is unknown or has a wrong value.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        raise LookupError(f"There is no objective '{name}'. {hint}")
    objective_class: type[Objective] = importlib.import_module(f"losses.{name}").OBJECTIVE
    return objective_class(**options)
