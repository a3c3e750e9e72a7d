"""Objectives: named combinations of losses, one module each, and nothing else in this folder.

A module defines ``OBJECTIVE``: a class whose ``needs`` say what it asks of towers and teachers, and which maps
:class:`losses.Embeddings` to named terms. Adding the file is all it takes to add the objective; another installed
package adds one through an entry point of the group ``distill.objectives``.
"""

from __future__ import annotations

import difflib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from losses.objective import Objective

GROUP = "distill.objectives"


def found() -> dict[str, EntryPoint]:
    """Every objective by name, not imported yet."""
    modules = [info.name for info in pkgutil.iter_modules(__path__)]
    own = [EntryPoint(name, f"{__name__}.{name}:OBJECTIVE", GROUP) for name in modules]
    by_name: dict[str, EntryPoint] = {}
    for point in (*own, *entry_points(group=GROUP)):
        if by_name.setdefault(point.name, point).value != point.value:
            raise LookupError(f"There are two objectives '{point.name}': {by_name[point.name].value}, {point.value}.")
    return by_name


def names() -> list[str]:
    """The objectives that exist, sorted."""
    return sorted(found())


def objective(name: str, **options: Any) -> Objective:
    """The objective called ``name`` with its options.

    Args:
        name: a module of this package, or an entry point.
        **options: the fields of its class.

    Raises:
        LookupError: if there is no such objective; the message names the nearest one.
        pydantic.ValidationError: if an option is unknown or has a wrong value.
    """
    return objective_class(name)(**options)


def objective_class(name: str) -> type[Objective]:
    """The class of an objective; raises ``LookupError`` like :func:`objective`."""
    known = found()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(sorted(known))}."
        raise LookupError(f"There is no objective '{name}'. {hint}")
    loaded: type[Objective] = known[name].load()
    return loaded
