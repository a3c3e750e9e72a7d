"""Objectives: named combinations of losses, one module each, and nothing else in this folder.

A module defines ``OBJECTIVE``, a subclass of :class:`losses.Objective`: its ``needs`` describe what it reads from
towers and teachers, and its call maps :class:`losses.Embeddings` to terms by name. Nothing but adding the file is
needed; another installed package adds an objective through an entry point of the group ``distill.objectives``.
"""

from __future__ import annotations

import difflib
import functools
import pkgutil
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from losses.objective import Objective

GROUP = "distill.objectives"


@functools.cache
def installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of other packages on ``sys.path``. Finding them takes a tenth of a second."""
    return tuple(entry_points(group=GROUP))


def found() -> dict[str, EntryPoint]:
    """The entry points of all objectives by name, not imported yet."""
    modules = [info.name for info in pkgutil.iter_modules(__path__)]
    builtin = [EntryPoint(name, f"{__name__}.{name}:OBJECTIVE", GROUP) for name in modules]
    by_name: dict[str, EntryPoint] = {}
    for point in (*builtin, *installed(tuple(sys.path))):
        if by_name.setdefault(point.name, point).value != point.value:
            raise LookupError(
                f"There are two objectives '{point.name}': {by_name[point.name].value}, {point.value}. Uninstall one."
            )
    return by_name


def names() -> list[str]:
    """The names of all objectives, sorted."""
    return sorted(found())


def objective(name: str, **options: Any) -> Objective:
    """Build the objective called ``name`` with its options.

    Args:
        name: a module of this package, or an entry point.
        **options: the fields of its class.

    Raises:
        LookupError: if there is no such objective; the message names the nearest one.
        pydantic.ValidationError: if an option is unknown or has a wrong value.
    """
    return objective_class(name)(**options)


def objective_class(name: str) -> type[Objective]:
    """Import the class of an objective; raises ``LookupError`` like :func:`objective`."""
    known = found()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(sorted(known))}."
        raise LookupError(f"There is no objective '{name}'. {hint}")
    origin = known[name].value
    try:
        loaded = known[name].load()
    except Exception as error:  # importing a module of another package can raise anything
        raise ImportError(
            f"The objective '{name}' cannot be loaded from {origin}: {error}. Repair its package."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Objective)):
        raise ImportError(f"What {origin} brings as '{name}' is no objective. Repair its package.")
    return loaded
