"""How a card is found by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from teachers.card import Card
from teachers.timm_hub import timm_card


def cards() -> list[Card]:
    """Every card, sorted by name: those in ``CARDS`` of each group module of this package."""
    package = importlib.import_module("teachers")
    modules = [importlib.import_module(f"teachers.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    found = [card for module in modules for card in getattr(module, "CARDS", [])]
    return sorted(found, key=lambda card: card.name)


def card(name: str) -> Card:
    """The card called ``name``; ``timm/ARCH`` makes one for any pretrained timm model.

    Raises:
        LookupError: if there is no such teacher; the message names the nearest ones.
    """
    if name.startswith("timm/"):
        return timm_card(name)
    known = {c.name: c for c in cards()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        images, texts = (", ".join(n for n, c in known.items() if c.modality == m) for m in ("image", "text"))
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {images}, timm/ARCH; for texts: {texts}."
        raise LookupError(f"There is no teacher '{name}'. {hint}")
    return known[name]
