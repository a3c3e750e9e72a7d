"""Folders with random towers of CLIP, SigLIP, ViT and DINO, each written by transformers or open_clip itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from open_clip.factory import set_model_preprocess_cfg
from open_clip.push_to_hf_hub import save_for_hf
from text_folders import SIZES, save, write_clip, write_siglip

SIDE = 32
VISION = {k: v for k, v in SIZES.items() if k != "max_position_embeddings"} | {"image_size": SIDE, "patch_size": 16}
SQUASHED: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
IMAGE_ONLY = {  # the classes of network and processor
    "vit": ("ViT", "ViTImageProcessor", SQUASHED),
    "vit_classifier": ("ViT", "ViTImageProcessor", SQUASHED),
    "dinov2": ("Dinov2", "BitImageProcessor", CROPPED),
    "dinov2_with_registers": ("Dinov2WithRegisters", "BitImageProcessor", CROPPED),
    "dinov3_vit": ("DINOv3ViT", "DINOv3ViTImageProcessor", SQUASHED),
    "clip_vision_model": ("CLIPVision", "CLIPImageProcessor", CROPPED),
    "siglip_vision_model": ("SiglipVision", "SiglipImageProcessor", SQUASHED),
}


def write_clip_pair(folder: Path) -> Path:
    """A CLIP with its image processor and tokenizer."""
    write_clip(folder, whole=True)
    transformers.CLIPImageProcessor(**CROPPED).save_pretrained(folder)
    return folder


def write_siglip_pair(folder: Path) -> Path:
    """A SigLIP with a SentencePiece tokenizer, and its preprocessing in ``processor_config.json``."""
    write_siglip(folder)  # its weights and configuration, those of a text tower, are replaced
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    text = SIZES | {"vocab_size": tokenizer.vocab_size, "projection_size": SIZES["hidden_size"]}
    save(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION)), folder)
    image_processor = transformers.SiglipImageProcessor(**SQUASHED)
    transformers.SiglipProcessor(image_processor, tokenizer).save_pretrained(folder)
    for path in folder.glob("tokenizer.json"):
        path.unlink()
    return folder


def write_image_only(folder: Path, kind: str) -> Path:
    """An image tower without a text tower."""
    name, processor, options = IMAGE_ONLY[kind]
    config = getattr(transformers, f"{name}Config")(
        **VISION | ({"projection_dim": 24} if kind.startswith("clip") else {})
    )
    suffix = {"vit_classifier": "ForImageClassification", "clip_vision_model": "ModelWithProjection"}.get(
        kind, "Model"
    )
    save(getattr(transformers, f"{name}{suffix}")(config), folder)
    getattr(transformers, processor)(**options).save_pretrained(folder)
    return folder


OPEN_CLIP = {
    "clip": {"embed_dim": 24, "quick_gelu": True},
    "custom": {"embed_dim": 24, "custom_text": True},
    "timm": {"embed_dim": 24, "custom_text": True, "init_logit_bias": -10},
    "siglip": {"embed_dim": 24, "custom_text": True, "init_logit_bias": -10},
}


def write_open_clip(folder: Path, kind: str) -> Path:
    """A model of open_clip as its ``save_for_hf`` writes it, without the pickle."""
    vision: dict[str, Any] = {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text: dict[str, Any] = {"context_length": 20, "width": 64, "heads": 2, "layers": 2}
    tokenizer: Any = Plain()
    if kind in ("timm", "siglip"):
        name, pool = "vit_tiny_patch16_224", "token"
        vision = {"image_size": 224, "timm_model_name": name, "timm_pool": pool, "timm_proj": "linear"}
        vision |= {"timm_proj": "linear"}
    if kind == "siglip":
        inner = write_siglip(folder.with_name(f"{folder.name}-tokenizer"))
        tokenizer = transformers.AutoTokenizer.from_pretrained(inner)
        text |= {"vocab_size": 600, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "pool_type": "last"}
        text |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True, "proj_bias": True}
    config = OPEN_CLIP[kind] | {"vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    model = (open_clip.CustomTextCLIP if "custom_text" in config else open_clip.CLIP)(**arguments)
    preprocess = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"} if kind == "siglip" else {}
    base = open_clip.transform.PreprocessCfg()
    set_model_preprocess_cfg(model, open_clip.transform.merge_preprocess_dict(base, preprocess))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    save_for_hf(model, tokenizer, config, str(folder), safe_serialization=True)
    return folder


class Plain:
    """open_clip's own tokenizer has no files."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def change(path: Path, **values: Any) -> None:
    """Set values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
