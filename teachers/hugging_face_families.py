"""The kinds of models of transformers that can be teachers: their networks, and what of these is the embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Tower:
    """One tower of a model of transformers.

    Attributes:
        width: the ends of the names of tensors whose first or last size is the width of the embedding, the first
            that there is, each with the place of that size.
        embed: from the loaded network and the inputs to the embeddings, as transformers calls them.
        parts: the attributes of the network that only the other tower has, which are removed.
    """

    width: tuple[tuple[str, int], ...]
    embed: Callable[[Any, torch.Tensor, dict[str, Any]], Any]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One ``model_type``.

    Attributes:
        networks: classes of transformers; the one that ``config.json`` names, else the first.
        towers: by modality.
        options: arguments for the class.
        interpolates: whether the network is asked to interpolate its positions for another image size; others do so,
            or need not, unasked.
    """

    networks: tuple[str, ...]
    towers: Mapping[str, Tower]
    options: Mapping[str, Any]
    interpolates: bool = True


def image_features(net: Any, pixels: torch.Tensor, options: dict[str, Any]) -> Any:
    return net.get_image_features(pixel_values=pixels, **options)


def text_features(net: Any, tokens: torch.Tensor, options: dict[str, Any]) -> Any:
    # Without a mask: CLIP's towers look back only, from the end of the text, and SigLIP's were trained with padding.
    return net.get_text_features(input_ids=tokens)


def pooled(net: Any, pixels: torch.Tensor, options: dict[str, Any]) -> Any:
    return net(pixel_values=pixels, **options)


def first_token(net: Any, pixels: torch.Tensor, options: dict[str, Any]) -> Any:
    return net(pixel_values=pixels, **options).last_hidden_state[:, 0]


def text_pooled(net: Any, tokens: torch.Tensor, options: dict[str, Any]) -> Any:
    return net(input_ids=tokens)


CLIP_VISION, CLIP_TEXT = (("visual_projection.weight", 0),), (("text_projection.weight", 0),)
SIGLIP_VISION = (("vision_model.post_layernorm.weight", 0), ("post_layernorm.weight", 0))
SIGLIP_TEXT = (("text_model.head.weight", 0), ("head.weight", 0))
CLASS_TOKEN = (("cls_token", -1),)
VISION_PARTS = ("vision_model", "visual_projection")
TEXT_PARTS = ("text_model", "text_projection")

FAMILIES = {
    "vit": Family(("ViTModel",), {"image": Tower(CLASS_TOKEN, first_token)}, {"add_pooling_layer": False}),
    "dinov2": Family(("Dinov2Model",), {"image": Tower(CLASS_TOKEN, pooled)}, {}, interpolates=False),
    "dinov2_with_registers": Family(
        ("Dinov2WithRegistersModel",), {"image": Tower(CLASS_TOKEN, pooled)}, {}, interpolates=False
    ),
    "dinov3_vit": Family(("DINOv3ViTModel",), {"image": Tower(CLASS_TOKEN, pooled)}, {}, interpolates=False),
    "clip": Family(
        ("CLIPModel",),
        {
            "image": Tower(CLIP_VISION, image_features, TEXT_PARTS),
            "text": Tower(CLIP_TEXT, text_features, VISION_PARTS),
        },
        {},
    ),
    "clip_vision_model": Family(
        ("CLIPVisionModelWithProjection", "CLIPVisionModel"),
        {"image": Tower((*CLIP_VISION, ("post_layernorm.weight", 0)), pooled)},
        {},
    ),
    "clip_text_model": Family(
        ("CLIPTextModelWithProjection", "CLIPTextModel"),
        {"text": Tower((*CLIP_TEXT, ("final_layer_norm.weight", 0)), text_pooled)},
        {},
    ),
    "siglip": Family(
        ("SiglipModel",),
        {
            "image": Tower(SIGLIP_VISION, image_features, TEXT_PARTS),
            "text": Tower(SIGLIP_TEXT, text_features, VISION_PARTS),
        },
        {},
    ),
    "siglip_vision_model": Family(("SiglipVisionModel",), {"image": Tower(SIGLIP_VISION, pooled)}, {}),
    "siglip_text_model": Family(("SiglipTextModel",), {"text": Tower(SIGLIP_TEXT, text_pooled)}, {}),
}
# Kinds of models that are known not to work, and why.
REFUSED = {
    "siglip2": "is SigLIP 2 in NaFlex, whose images keep their own shape, as patches. Name a SigLIP 2 of one image "
    "size, whose model_type is siglip",
}
