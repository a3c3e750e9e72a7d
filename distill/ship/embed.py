"""Embed collections: shards, folders of images, files of texts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import torch
from PIL import Image

from distill.data.cache_fill import PixelFormat, ViewPixels
from distill.data.images import decode, image_files
from distill.data.shards import Shards
from distill.data.views import PLAIN_VIEWS
from distill.errors import UserError
from distill.ship.image_text import ImageText

BATCH = 256


def embed_images(model: ImageText, shards: Shards, workers: int = 0) -> torch.Tensor:
    """Embed every image of some shards, in order and without augmentation: [n, D] float32 unit rows.

    Raises:
        UserError: at the first image that cannot be read.
    """
    total = torch.zeros(())
    for weight, part in model.parts:
        size, interpolation = part.config.image.image_size, part.config.image.interpolation
        dataset = ViewPixels(shards, PLAIN_VIEWS, [PixelFormat(1, size, interpolation)])
        samples = [range(i, min(i + BATCH, len(shards))) for i in range(0, len(shards), BATCH)]
        with closing(dataset.batches(samples, workers)) as loaded:
            rows = torch.cat([part.encode_image(pixels[:, 0]) for (pixels,), _ in loaded])
        total = total + weight * rows
    return torch.nn.functional.normalize(total, dim=1) if len(model.parts) > 1 else total


def embed_folder(model: ImageText, folder: Path) -> tuple[torch.Tensor, list[str]]:
    """Embed the images in a folder and its subfolders, sorted by path.

    Returns:
        [n, D] float32 unit rows, and the paths relative to the folder.

    Raises:
        UserError: if there is no image, or one does not decode.
    """
    paths = list(image_files(folder))
    if not paths:
        raise UserError(f"There is no picture (.jpg, .png, .webp) below {folder}.", "Name another folder.")
    parts = []
    for start in range(0, len(paths), BATCH):
        images: list[Image.Image] = [open_image(p) for p in paths[start : start + BATCH]]
        parts.append(model.encode_image(images))
    return torch.cat(parts), [str(p.relative_to(folder)) for p in paths]


def open_image(path: Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        UserError: if it does not decode.
    """
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        raise UserError(f"The image {path} {error}.", "Remove or replace it.") from error


def embed_texts(model: ImageText, file: Path) -> tuple[torch.Tensor, list[str]]:
    """Embed the lines of a UTF-8 file that are not empty.

    Returns:
        [n, D] float32 unit rows, and the lines.

    Raises:
        UserError: if the file is not UTF-8 or has no such line.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}.", "Convert it to UTF-8.") from error
    if not lines:
        raise UserError(f"{file} holds no text.", "Write one text per line.")
    return model.encode_text(lines), lines
