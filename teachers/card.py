"""The card that describes a teacher, and how one is found by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Card:
    """A pretrained image encoder: where its weights are and what it expects.

    Attributes:
        name: ``group/name``; the group is the module of this package that holds the card.
        arch: the timm architecture.
        width: P, the width of its embedding: the classifier's pre-logits, or the pooled token.
        image_size: side of its square input, in pixels.
        mean, std: channel statistics of its input, in [0, 1] pixel units.
        interpolation: ``bicubic`` or ``bilinear``.
        parameters: number of weights without the classifier; 0 where it is not known before loading.
        data: what it was trained on.
        licence: of the weights.
        source: a sentence that says where the weights come from.
        install: the command that brings the weights, if any.
        paper: where it is described.
        weights: returns the timm ``state_dict``; called only when the teacher is loaded, and picklable, since
            loader processes are given the card. None: timm's own pretrained weights, from the Hugging Face hub
            or its local cache.
    """

    name: str
    arch: str
    width: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    parameters: int = 0
    data: str = ""
    licence: str = ""
    source: str = ""
    install: str = ""
    paper: str = ""
    weights: Callable[[], dict[str, torch.Tensor]] | None = None


GROUPS_WITHOUT_CARDS = {"card", "frozen", "timm_hub"}


def cards() -> list[Card]:
    """Every card, sorted by name: those in ``CARDS`` of each group module of this package."""
    package = importlib.import_module("teachers")
    groups = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in GROUPS_WITHOUT_CARDS]
    found = [c for group in groups for c in importlib.import_module(f"teachers.{group}").CARDS]
    return sorted(found, key=lambda c: c.name)


def card(name: str) -> Card:
    """The card called ``name``; ``timm/ARCH`` makes one for any pretrained timm model.

    Raises:
        LookupError: if there is no such teacher; the message names the nearest ones.
    """
    if name.startswith("timm/"):
        from teachers.timm_hub import timm_card

        return timm_card(name)
    known = {c.name: c for c in cards()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}, timm/ARCH."
        raise LookupError(f"There is no teacher '{name}'. {hint}")
    return known[name]
