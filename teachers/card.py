"""The card that describes a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Card:
    """A pretrained encoder of images or of texts: where its weights are and what it expects.

    Attributes:
        name: ``group/name``; the group is the module of this package that holds the card.
        modality: what it embeds.
        arch: the timm architecture; of a text teacher the ``model_type`` of its ``config.json``.
        width: P, the width of its embedding: the classifier's pre-logits, or the pooled token or tokens.
        classes: the number of its classifier's logits, as timm has it; 0 if it has no classifier.
        image_size: side of its square input, in pixels; 0 for a text teacher.
        mean, std: channel statistics of its input, in [0, 1] pixel units; without meaning for a text teacher.
        interpolation: ``bicubic`` or ``bilinear``; without meaning for a text teacher.
        context: tokens a text, padding included; 0 for an image teacher.
        parameters: number of weights without the classifier; 0 where it is not known before loading.
        data: what it was trained on.
        licence: of the weights.
        source: a sentence that says where the weights come from.
        install: the command that brings the weights, if any.
        paper: where it is described.
        weights: returns the timm ``state_dict``, or for a text teacher the folder that teachers/folder.py
            describes; called only when the teacher or its tokenizer is loaded, and picklable, since loader
            processes are given the card. None: timm's own pretrained weights, from the Hugging Face hub or its
            local cache.
    """

    name: str
    modality: Literal["image", "text"] = "image"
    arch: str
    width: int
    classes: int = 0
    image_size: int = 0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    context: int = 0
    parameters: int = 0
    data: str = ""
    licence: str = ""
    source: str = ""
    install: str = ""
    paper: str = ""
    weights: Callable[[], dict[str, torch.Tensor] | Path] | None = None
