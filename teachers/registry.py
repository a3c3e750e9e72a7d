"""How a card is found by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from teachers.card import Card
from teachers.hub import timm_card
from teachers.local import is_path, local_card


def cards() -> list[Card]:
    """Every card, sorted by name: those in ``CARDS`` of each group module of this package."""
    package = importlib.import_module("teachers")
    modules = [importlib.import_module(f"teachers.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    found = [card for module in modules for card in getattr(module, "CARDS", [])]
    return sorted(found, key=lambda card: card.name)


def card(name: str) -> Card:
    """The card called ``name``; ``timm/ARCH`` makes one for any timm model, a path for a folder of the user's.

    Raises:
        LookupError: if there is no such teacher; the message names the nearest ones.
        ValueError: if a folder is no encoder's.
    """
    if is_path(name):
        return local_card(name)
    if name.startswith("timm/"):
        return timm_card(name)
    known = {c.name: c for c in cards()}
    if name not in known:
        raise LookupError(f"There is no teacher '{name}'. {nearest(name, list(known))}")
    return known[name]


def nearest(name: str, known: list[str]) -> str:
    """What may have been meant: names spelt alike, names that hold it, or else the groups there are."""
    ends, tail = {other.split("/")[1]: other for other in known}, name.rpartition("/")[2]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) + [
        other for other in known if len(tail) > 2 and tail in other
    ]
    near += [ends[end] for end in difflib.get_close_matches(tail, list(ends), n=3, cutoff=0.6)]
    if near:
        return f"Did you mean {' or '.join(dict.fromkeys(near[:3]))}?"
    groups = sorted({other.split("/")[0] for other in known})
    return (
        f"Teachers are called GROUP/NAME, with the groups {', '.join(groups)}; or timm/ARCH, or the path of a folder, "
        "./FOLDER. 'distill teachers list' lists them."
    )
