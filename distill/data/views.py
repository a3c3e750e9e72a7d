"""Views: deterministic augmentations that student and teacher share.

A view of an image is a crop and perhaps a mirroring that follow from (sample key, view number) and the
recipe's two settings alone. So a teacher's embedding of view v can be computed once, and the student later
sees exactly that view, at its own resolution. View 0 is always the plain image: its largest central square.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from distill.data.chance import uniform
from distill.data.shards import Sample
from distill.errors import UserError

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Views:
    """How views are drawn.

    Attributes:
        crop: smallest and largest share of the image's area; (1, 1) is the central square of view 0.
        flip: whether half of the views are mirrored.
    """

    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = False

    def draw(self, key: str, view: int, size: tuple[int, int]) -> View:
        """The view of an image.

        Args:
            key: the sample's key.
            view: its number; 0 is the plain image.
            size: (width, height) of the image in pixels.
        """
        width, height = size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        if view == 0:
            return View((left, top, left + side, top + side), False)
        share, shape, x, y, coin = uniform(f"{view} {key}", 5)
        mirrored = self.flip and coin < 0.5
        if self.crop == (1.0, 1.0):
            return View((left, top, left + side, top + side), mirrored)
        area = (self.crop[0] + share * (self.crop[1] - self.crop[0])) * width * height
        # The usual range of shapes, 3:4 to 4:3, narrowed where the crop leaves no room for it.
        stretch = math.exp((2 * shape - 1) * min(math.log(4 / 3), -math.log(self.crop[0])))
        w, h = min(width, math.sqrt(area * stretch)), min(height, math.sqrt(area / stretch))
        left, top = x * (width - w), y * (height - h)
        return View((left, top, left + w, top + h), mirrored)


@dataclass(frozen=True)
class View:
    """One crop, in pixels of the original (left, top, right, bottom), and whether it is mirrored."""

    box: tuple[float, float, float, float]
    mirrored: bool

    def render(self, image: Image.Image, side: int, interpolation: str = "bicubic") -> torch.Tensor:
        """[3, side, side] uint8: the crop at the given resolution."""
        small = image.resize((side, side), RESAMPLING[interpolation], box=self.box)
        if self.mirrored:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def decode(sample: Sample) -> Image.Image:
    """A sample's image as RGB, transparency on white, turned as its EXIF says.

    Raises:
        UserError: if there is none or it does not decode.
    """
    if sample.image is None:
        raise UserError(f"There is no image in {sample.where}.", "Remove the sample, or add KEY.jpg, .png or .webp.")
    return decode_bytes(sample.image, sample.where)


def decode_bytes(data: bytes, where: str) -> Image.Image:
    """An encoded image as RGB; ``where`` is how an error names it.

    Raises:
        UserError: if it does not decode.
    """
    try:
        return on_white(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise UserError(f"The image of {where} does not decode: {error}.", "Remove or replace it.") from error


def on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if image.mode == "RGB":
        image.load()
        return image
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
