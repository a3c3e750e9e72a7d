"""The card that describes a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn

Channels = tuple[float, float, float]

# What most encoders' inputs are normalised by.
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: tuple[Channels, Channels] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, kw_only=True)
class Card:
    """A pretrained encoder of images or of texts: where its weights are and what it expects.

    Attributes:
        name: ``group/name``; the group is the module of this package that holds the card.
        modality: what it embeds.
        arch: the timm architecture; of a text teacher the ``model_type`` of its ``config.json``.
        options: of that architecture, for ``timm.create_model``.
        build: makes the network, with any weights, where it is none of timm's; such a teacher can teach but not ship.
        width: P, the width of its embedding: the classifier's pre-logits, or the pooled token or tokens.
        classes: the number of its classifier's logits, as timm has it; 0 if it has no classifier.
        image_size: side of its square input, in pixels; 0 for a text teacher.
        fixed_size: whether the network is built for one image size; for another it is built anew, and its position
            embeddings are interpolated.
        mean, std: channel statistics of its input, in [0, 1] pixel units; without meaning for a text teacher.
        interpolation: ``bicubic`` or ``bilinear``; without meaning for a text teacher.
        context: tokens a text, padding included; 0 for an image teacher.
        parameters: number of weights without the classifier; 0 where it is not known before loading.
        data: what it was trained on.
        licence: of the weights.
        source: where the weights come from.
        install: the command that brings the weights, if any.
        url: where the file with the weights can be fetched by hand; it is then named by ``teacher.N.weights``.
        paper: where it is described.
        checked: what this project has tried: "loaded", the real weights gave the embeddings they should; "layout", a
            file of random weights with the public checkpoint's names and shapes, or timm's of it, loads as it should;
            "configuration", width, size, statistics and number of weights are what timm says; "" nothing.
        file: says where the file with the weights is, or for a text teacher the folder (see teachers/folder.py);
            called only when the teacher or its tokenizer is loaded, and picklable, since loader processes are given
            the card. None: timm's own pretrained weights, from the Hugging Face hub or its local cache.
        read: the ``state_dict`` of timm's ``arch``, or of what ``build`` makes, in that file; None: as
            :func:`teachers.checkpoint.read_weights` reads it.
        sha256: of the file; "" where nobody has said.
    """

    name: str
    modality: Literal["image", "text"] = "image"
    arch: str
    options: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[[], nn.Module] | None = None
    width: int
    classes: int = 0
    image_size: int = 0
    fixed_size: bool = False
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    context: int = 0
    parameters: int = 0
    data: str = ""
    licence: str = ""
    source: str = ""
    install: str = ""
    url: str = ""
    paper: str = ""
    checked: Literal["loaded", "layout", "configuration", ""] = ""
    file: Callable[[], Path] | None = None
    read: Callable[[Path], dict[str, torch.Tensor]] | None = None
    sha256: str = ""

    def options_at(self, side: int) -> dict[str, Any]:
        """The options of the network for images of ``side`` pixels."""
        return dict(self.options) | ({"img_size": side} if self.fixed_size and side != self.image_size else {})
