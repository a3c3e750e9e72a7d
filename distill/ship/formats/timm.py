"""The image tower as a folder that timm and the Hugging Face hub know: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError
from distill.files import write_text
from distill.ship.build import build
from distill.ship.config_file import Config
from distill.ship.contents import Shipped
from distill.ship.export_format import ExportFormat, Numbers, Opened
from distill.ship.weights import save, unit_rows
from students.scaled import MULTIPLIERS

LOADING = """import timm
import torch
from PIL import Image

net = timm.create_model("local-dir:{name}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
rows = net(prepare(Image.open("photo.jpg").convert("RGB"))[None])
rows = torch.nn.functional.normalize(rows, dim=1)  # [1, {width}]
"""


class Timm(ExportFormat):
    """A network of timm's, with its preprocessing. There is no place for a text tower: it is left out."""

    opens, library, texts = "timm", "timm", False

    def check(self, shipped: Shipped) -> None:
        check_plain(shipped, "timm")

    def write(self, shipped: Shipped, folder: Path, numbers: Numbers) -> None:
        config, network = shipped.config, build(shipped, "cpu").image.net
        write_text(folder / "config.json", json.dumps(timm_config(config, network), indent=2) + "\n")
        save(folder / "model.safetensors", shipped.tower("image"), numbers.dtype)

    def open(self, folder: Path, config: Config) -> Opened:
        import timm

        net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        data = timm.data.resolve_model_data_config(net)
        mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))

        @torch.no_grad()
        def images(pixels: torch.Tensor) -> torch.Tensor:
            return unit_rows(net((pixels.float() / 255 - mean) / std))

        return Opened(images)

    def loading(self, config: Config, name: str) -> str:
        return LOADING.format(name=name, width=config.width)


def check_plain(shipped: Shipped, library: str) -> None:
    """Raise ``UserError`` if the image tower is not one network that timm builds by its name."""
    if shipped.config.image.layers:
        raise UserError(
            f"{library} has no networks that are an MLP of {shipped.config.image.layers} layers on a locked one.",
            "Export to distill, onnx or torch.",
        )
    if scaled := [key for key in shipped.config.image.options if key in MULTIPLIERS]:
        raise UserError(
            f"{library} builds '{shipped.config.image.arch}' by its name, which has no {scaled[0].replace('_', ' ')}.",
            "Export to distill, onnx or torch.",
        )


def timm_config(config: Config, network: Any) -> dict[str, Any]:
    """``config.json`` as timm reads it from a folder or from the hub: see ``timm.models._hub``."""
    image = config.image
    side = [3, image.image_size, image.image_size]
    own = network.pretrained_cfg
    return {
        "architecture": image.arch,
        "num_classes": image.width,
        "num_features": network.num_features,
        "model_args": {key: value for key, value in image.options.items() if key != "num_classes"},
        "pretrained_cfg": {
            "num_classes": image.width,
            "input_size": side,
            "fixed_input_size": bool(own.get("fixed_input_size", False)),
            "interpolation": image.interpolation,
            "crop_pct": 1.0,  # the whole of the square
            "crop_mode": "center",
            "mean": list(image.mean),
            "std": list(image.std),
            # Which layers timm adapts to other numbers of channels and classes.
            **{key: own[key] for key in ("first_conv", "classifier") if own.get(key)},
        },
    }


FORMAT = Timm()
