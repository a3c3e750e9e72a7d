"""A folder that open_clip opens: ``open_clip_config.json``, ``open_clip_model.safetensors``, the tokenizer's files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError
from distill.files import write_text
from distill.ship.config_file import Config
from distill.ship.contents import Shipped
from distill.ship.export_format import ExportFormat, Numbers, Opened
from distill.ship.formats.timm import check_plain
from distill.ship.weights import quiet, save, save_tokenizer, unit_rows

# Options of timm's networks that change training alone.
TRAINING_ONLY = frozenset(
    {"drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate", "patch_drop_rate"}
)
LOADING = """import open_clip
from PIL import Image

model, _, prepare = open_clip.create_model_and_transforms("local-dir:{name}")
tokenize = open_clip.get_tokenizer("local-dir:{name}")
model.eval()
images = model.encode_image(prepare(Image.open("photo.jpg"))[None], normalize=True)  # [1, {width}]
texts = model.encode_text(tokenize(["a red apple"]), normalize=True)                  # [1, {width}]
"""


class OpenClip(ExportFormat):
    """A ``CustomTextCLIP`` whose image tower is a network of timm's, with our projection as its classifier."""

    opens, library = "open_clip", "open_clip"

    def check(self, shipped: Shipped) -> None:
        try:
            import open_clip  # noqa: F401
        except ImportError as error:
            raise UserError(
                "The export format 'open_clip' needs the package open_clip_torch.", "pip install open_clip_torch"
            ) from error
        check_plain(shipped, "open_clip")
        model_config(shipped.config)

    def write(self, shipped: Shipped, folder: Path, numbers: Numbers) -> None:
        config = shipped.config
        about = {"model_cfg": model_config(config), "preprocess_cfg": preprocess_config(config)}
        write_text(folder / "open_clip_config.json", json.dumps(about, indent=2) + "\n")
        save_tokenizer(shipped, folder)
        tensors = {f"visual.trunk.{key}": value for key, value in shipped.tower("image").items()}
        tensors |= {f"text.{key}": value for key, value in shipped.tower("text").items()}
        scale = torch.tensor(math.log(1 / config.temperature))
        save(folder / "open_clip_model.safetensors", tensors | {"logit_scale": scale}, numbers.dtype)

    def open(self, folder: Path, config: Config) -> Opened:
        import open_clip

        with quiet():
            model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
            tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
        model.eval()
        normalize = prepare.transforms[-1]

        @torch.no_grad()
        def images(pixels: torch.Tensor) -> torch.Tensor:
            return unit_rows(model.encode_image(normalize(pixels.float() / 255)))

        @torch.no_grad()
        def texts(values: Any) -> torch.Tensor:
            return unit_rows(model.encode_text(tokenize(list(values))))

        return Opened(images, texts)

    def loading(self, config: Config, name: str) -> str:
        return LOADING.format(name=name, width=config.width)


def model_config(config: Config) -> dict[str, Any]:
    """The arguments of open_clip's ``CustomTextCLIP``.

    Raises:
        UserError: if it has none for these towers.
    """
    if config.text is None:
        raise UserError("open_clip has no models without a text tower.", "Export to timm, onnx or torch.")
    try:
        text = config.text.tower_class().open_clip_config(config.text.options(), config.text.vocab)
    except ValueError as error:
        raise UserError(f"{error}.", "Export to onnx or torch, or train with a text tower of open_clip's.") from error
    return {"embed_dim": config.width, "custom_text": True, "vision_cfg": vision_config(config), "text_cfg": text}


def vision_config(config: Config) -> dict[str, Any]:
    """The ``vision_cfg`` of a network of timm's, which open_clip builds from its name and its pooling alone.

    With ``timm_proj`` "" the network's classifier, which has D outputs, is the projection; with "none" there is none.

    Raises:
        UserError: if the network has other options.
    """
    import timm

    image = config.image
    net = timm.create_model(image.arch, num_classes=image.width, **image.options)
    default = timm.get_pretrained_cfg(image.arch)
    options = {key: value for key, value in image.options.items() if key not in TRAINING_ONLY}
    pool = options.pop("global_pool", getattr(net, "global_pool", None) or getattr(net.head, "global_pool", None))
    pool = pool if isinstance(pool, str) else getattr(pool, "pool_type", None) or "avg"
    size = options.pop("img_size", None)
    fixed = default is not None and default.fixed_input_size
    if size is not None and not (fixed and default and size == default.input_size[-1]):
        options["img_size"] = size
    if options:
        named = ", ".join(f"{key} = {json.dumps(value)}" for key, value in sorted(options.items()))
        raise UserError(
            f"open_clip builds '{image.arch}' from its name alone and cannot express its options {named}.",
            "Export to timm, onnx or torch, or train an architecture of timm's as it is.",
        )
    return {
        "timm_model_name": image.arch,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": "" if image.width else "none",
        "image_size": image.image_size,
    }


def preprocess_config(config: Config) -> dict[str, Any]:
    """The ``preprocess_cfg`` of the largest central square: the shorter side resized, then its centre cut out."""
    image = config.image
    return {
        "size": image.image_size,
        "mode": "RGB",
        "mean": list(image.mean),
        "std": list(image.std),
        "interpolation": image.interpolation,
        "resize_mode": "shortest",
    }


FORMAT = OpenClip()
