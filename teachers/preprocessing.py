"""The input of image towers: size, statistics and interpolation, as the folders of two libraries state them.

Of a folder's preprocessing the size that the network is shown, the resampling and the statistics are taken. How a
picture becomes square is not: a teacher is shown the view that the student is shown, see ``distill/data/views.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from teachers.card import CLIP, Channels
from teachers.folder import load_json

# Pillow's numbers of its filters, by which preprocessor_config.json names them.
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
SUPPORTED = ("bilinear", "bicubic")


class Preprocessing(NamedTuple):
    """What an image tower is shown: the fields of :class:`teachers.Card` with the same names."""

    image_size: int
    mean: Channels
    std: Channels
    interpolation: str


def of_transformers(folder: Path) -> Preprocessing:
    """What ``preprocessor_config.json`` of a folder says, or ``processor_config.json``, which newer versions write.

    Raises:
        ValueError: if both are missing, or they ask for something that views do not have.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        config = load_json(path, dict)
    else:
        path = folder / "processor_config.json"
        config = load_json(path, dict).get("image_processor", {}) if path.is_file() else {}
    if not config:
        raise ValueError(
            f"{folder} has no preprocessor_config.json, which says how images are prepared for its image tower. Save "
            "the image processor beside the model."
        )
    if not config.get("do_rescale", True) or not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255):
        raise ValueError(f"{path} does not bring pixels to [0, 1] by dividing by 255. Name another teacher.")
    size = config.get("size", 224)
    if config.get("do_center_crop", True) and config.get("crop_size"):
        size = config["crop_size"]
    resample = config.get("resample", 3)
    mean, std = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if config.get("do_normalize", True):
        mean, std = channels(path, config, "image_mean"), channels(path, config, "image_std")
    return Preprocessing(square(path, size), mean, std, supported(path, RESAMPLING.get(resample, str(resample))))


def of_open_clip(path: Path, preprocess: Mapping[str, Any], model: Mapping[str, Any]) -> Preprocessing:
    """What the two tables of an ``open_clip_config.json`` say.

    Raises:
        ValueError: if it asks for something that views do not have.
    """
    vision = model.get("vision_cfg") or {}
    found = {"mean": CLIP[0], "std": CLIP[1]} | {key: value for key, value in preprocess.items() if value is not None}
    interpolation = supported(path, str(found.get("interpolation", "bicubic")))
    size = square(path, vision.get("image_size", 224))
    return Preprocessing(size, channels(path, found, "mean"), channels(path, found, "std"), interpolation)


def square(path: Path, size: Any) -> int:
    """The side that a size in a configuration stands for: a number, two equal ones, or a table of them.

    Raises:
        ValueError: if it is no square.
    """
    if isinstance(size, Mapping):
        size = [size[key] for key in ("height", "width", "shortest_edge") if key in size]
    sides = set(size) if isinstance(size, list | tuple) else {size}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or isinstance(side, bool) or side <= 0:
        raise ValueError(f"{path} asks for images of the size {size!r}; a teacher's are square. Name another teacher.")
    return side


def channels(path: Path, config: Mapping[str, Any], key: str) -> Channels:
    """Three numbers, one a channel.

    Raises:
        ValueError: if there is something else under the key.
    """
    value = config.get(key)
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
        raise ValueError(f"{path} has {value!r} as {key}, where three numbers are expected. Save the model again.")
    return float(value[0]), float(value[1]), float(value[2])


def supported(path: Path, interpolation: str) -> str:
    """The name of an interpolation; raises ``ValueError`` unless views are resized by it."""
    if interpolation not in SUPPORTED:
        raise ValueError(f"{path} resizes images by {interpolation}; views are by {' or '.join(SUPPORTED)} only.")
    return interpolation
