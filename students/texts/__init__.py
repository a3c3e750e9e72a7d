"""Text towers: one architecture a module, with its options and its tokenizer, and nothing else in this folder.

A module defines ``TEXT_TOWER``, a class that derives from :class:`students.TextTower`. Nothing but adding the
file is needed; another installed package adds an architecture through an entry point of the group
``distill.text_towers``.
"""

from __future__ import annotations

import difflib
import functools
import pkgutil
import sys
from importlib.metadata import EntryPoint, entry_points

from students.text_tower import TextTower

GROUP = "distill.text_towers"


@functools.cache
def installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of other packages on ``sys.path``. Finding them takes a tenth of a second."""
    return tuple(entry_points(group=GROUP))


def found() -> dict[str, EntryPoint]:
    """The entry points of all text architectures by name, not imported yet."""
    modules = [info.name for info in pkgutil.iter_modules(__path__)]
    builtin = [EntryPoint(name, f"{__name__}.{name}:TEXT_TOWER", GROUP) for name in modules]
    by_name: dict[str, EntryPoint] = {}
    for point in (*builtin, *installed(tuple(sys.path))):
        other = by_name.setdefault(point.name, point)
        if other.value != point.value:
            raise LookupError(
                f"There are two text architectures '{point.name}': {other.value}, {point.value}. Uninstall one."
            )
    return by_name


def text_tower_class(arch: str) -> type[TextTower]:
    """Import the class of a text tower.

    Raises:
        LookupError: if there is no such architecture; the message names the nearest one.
    """
    known = found()
    if arch not in known:
        near = difflib.get_close_matches(arch, known, n=1) or sorted(known)
        raise LookupError(f"There is no text architecture '{arch}'. Did you mean {' or '.join(near)}?")
    origin = known[arch].value
    try:
        loaded = known[arch].load()
    except Exception as error:  # importing a module of another package can raise anything
        raise ImportError(
            f"The text architecture '{arch}' cannot be loaded from {origin}: {error}. Repair its package."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, TextTower)):
        raise ImportError(f"What {origin} brings as '{arch}' is no text architecture. Repair its package.")
    return loaded
