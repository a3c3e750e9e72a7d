"""The card that describes a teacher."""

from __future__ import annotations

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
