"""Launchers by name: one module each.

A launcher is one module of this package that defines ``LAUNCHER``, a subclass of :class:`launch.launcher.Launcher`.
Adding the file is all it takes to add the launcher. Another installed package adds one through an entry point of the
group ``distill.launchers`` that names such a class.
"""

from __future__ import annotations

import difflib
import functools
import pkgutil
import sys
from importlib.metadata import EntryPoint, entry_points

from launch.launcher import Launcher

GROUP = "distill.launchers"

__all__ = ["find", "names"]


@functools.cache
def installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of other packages on ``sys.path``. Finding them takes a tenth of a second."""
    return tuple(entry_points(group=GROUP))


def names() -> list[str]:
    """The names of all launchers, sorted.

    Raises:
        LookupError: if two launchers have the same name.
    """
    return sorted(_entry_points())


def find(name: str) -> type[Launcher]:
    """The class of the launcher called ``name``; its fields are the options.

    Raises:
        LookupError: if there is no such launcher; the message names the nearest one. Also if two have the same name.
        ImportError: if the package that provides it cannot be imported, or provides something else.
    """
    known = _entry_points()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(sorted(known))}."
        raise LookupError(f"There is no launcher '{name}'. {hint}")
    where = known[name].value
    try:
        launcher = known[name].load()
    except Exception as error:  # importing a module of another package can raise anything
        raise ImportError(
            f"The launcher '{name}' cannot be loaded from {where}: {error}. Repair its package."
        ) from error
    if not (isinstance(launcher, type) and issubclass(launcher, Launcher)):
        raise ImportError(f"The launcher '{name}' from {where} is no subclass of Launcher. Repair its package.")
    return launcher


def _entry_points() -> dict[str, EntryPoint]:
    """All launchers by name, none of them imported yet: the modules of this package, and those of other packages."""
    own = [EntryPoint(info.name, f"{__name__}.{info.name}:LAUNCHER", GROUP) for info in pkgutil.iter_modules(__path__)]
    by_name: dict[str, EntryPoint] = {}
    for point in (*own, *installed(tuple(sys.path))):
        other = by_name.setdefault(point.name, point)
        if other.value != point.value:  # equal where a package is found twice, as in an editable installation
            raise LookupError(
                f"There are two launchers '{point.name}': {other.value} and {point.value}. "
                "Uninstall the package of one of them."
            )
    return by_name
