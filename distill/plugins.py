"""Things of one kind (evaluations, export formats, optimisers) by name: one module each, here or in other packages."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from distill.errors import UserError, did_you_mean


@functools.cache
def installed(path: tuple[str, ...]) -> Any:
    """The entry points of the packages on ``sys.path``. Finding them takes a tenth of a second."""
    return entry_points()


def found(package: str, attribute: str, group: str) -> dict[str, EntryPoint]:
    """Everything of one kind, by name, not loaded yet.

    Args:
        package: whose modules are of this kind if they define ``attribute``; a module's name is the thing's name.
        attribute: such as ``EVALUATION``.
        group: of the entry points by which other installed packages add to the kind, such as ``distill.evaluations``.

    Raises:
        UserError: if two of them have one name.
    """
    modules = [info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    own = [
        EntryPoint(name, f"{package}.{name}:{attribute}", group)
        for name in modules
        if hasattr(importlib.import_module(f"{package}.{name}"), attribute)
    ]
    by_name: dict[str, EntryPoint] = {}
    for point in (*own, *installed(tuple(sys.path)).select(group=group)):
        other = by_name.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f"Two packages bring a '{point.name}' for {group}: {other.value} and {point.value}.",
                "Uninstall one of them.",
            )
    return dict(sorted(by_name.items()))


def load(
    kind: str, name: str, package: str, attribute: str, group: str, valid: Callable[[Any], bool] = lambda thing: True
) -> Any:
    """The thing called ``name``.

    Args:
        kind: what to call it in messages, such as "evaluation".
        package, attribute, group: see :func:`found`.
        valid: whether what was loaded is of that kind.

    Raises:
        UserError: if there is none of that name, or the package that brings it cannot be imported or brings something
            else.
    """
    known = found(package, attribute, group)
    if name not in known:
        raise UserError(f"There is no {kind} '{name}'.", did_you_mean(name, known, f"Known: {', '.join(known)}."))
    origin = known[name].value
    try:
        thing = known[name].load()
    except Exception as error:  # importing a module of another package can raise anything
        raise UserError(
            f"The {kind} '{name}' cannot be loaded from {origin}: {error}.", "Repair its package."
        ) from error
    if not valid(thing):
        raise UserError(f"What {origin} brings as '{name}' is no {kind}.", "Repair its package.")
    return thing


def is_subclass(base: type) -> Callable[[Any], bool]:
    """Whether a thing is a class that derives from ``base``."""
    return lambda thing: isinstance(thing, type) and issubclass(thing, base)
