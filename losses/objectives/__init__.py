"""Objectives: named combinations of losses, one module each.

An objective is one module of this package that defines ``OBJECTIVE``: a class that says in its ``needs`` what the
model must provide, and maps :class:`Embeddings` to named terms. Adding the file is all it takes to add the objective.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Any

from losses.objectives.base import HEADS, Embeddings, Facts, Needs, Objective, Teaching

__all__ = ["HEADS", "Embeddings", "Facts", "Needs", "Objective", "Teaching", "names", "objective"]


def names() -> list[str]:
    """The objectives that exist: every module of this package that defines ``OBJECTIVE``, sorted."""
    modules = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if hasattr(importlib.import_module(f"{__name__}.{name}"), "OBJECTIVE"))


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
    objective_class: type[Objective] = importlib.import_module(f"{__name__}.{name}").OBJECTIVE
    return objective_class(**options)
