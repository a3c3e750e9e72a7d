"""Views: deterministic augmentations that student and teacher share.

A view of an image is a crop and perhaps a mirroring that follow from (sample key, view number) and the
recipe's two settings alone. So a teacher's embedding of view v can be computed once, and the student later
sees exactly that view, at its own resolution. View 0 is always the plain image: its largest central square.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn.functional import interpolate

from distill.data.keyed_random import uniform
from distill.data.shards import Sample

MAX_PIXELS = 100_000_000  # of an image: 300 MB once decoded


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
        left, top = (width - side) // 2, (height - side) // 2
        if view == 0:
            return View((left, top, left + side, top + side), False)
        share, shape, x, y, coin = uniform(f"{view} {key}", 5)
        mirrored = self.flip and coin < 0.5
        if self.crop == (1.0, 1.0):
            return View((left, top, left + side, top + side), mirrored)
        area = (self.crop[0] + share * (self.crop[1] - self.crop[0])) * width * height
        # The usual range of shapes, 3:4 to 4:3, narrowed where the crop leaves no room for it.
        stretch = math.exp((2 * shape - 1) * min(math.log(4 / 3), -math.log(self.crop[0])))
        w, h = within(math.sqrt(area * stretch), width), within(math.sqrt(area / stretch), height)
        left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
        return View((left, top, left + w, top + h), mirrored)


def within(length: float, most: int) -> int:
    """Whole pixels, at least one."""
    return max(1, min(most, round(length)))


@dataclass(frozen=True)
class View:
    """One crop, in pixels of the original (left, top, right, bottom), and whether it is mirrored."""

    box: tuple[int, int, int, int]
    mirrored: bool

    def render(self, image: Image.Image, side: int, interpolation: str = "bicubic") -> torch.Tensor:
        """[3, side, side] uint8: the crop at the given resolution.

        Resampled with a filter as wide as the shrinking asks for, like Pillow's, by torch: measured three times as
        fast. The two differ where they round and clip in between: two grey levels on drawings, more on noise.

        Args:
            interpolation: bicubic or bilinear.
        """
        crop = torch.from_numpy(np.array(image.crop(self.box))).permute(2, 0, 1)[None]
        small = interpolate(crop, size=(side, side), mode=interpolation, antialias=True)[0]
        return (small.flip(-1) if self.mirrored else small).contiguous()


def decode(sample: Sample) -> Image.Image:
    """A sample's image as RGB, transparency on white, turned as its EXIF says; of an animation the first picture.

    Raises:
        BadSample: if there is none or it does not decode.
    """
    if sample.image is None:
        raise sample.error("there is no image: no KEY.jpg, .png or .webp")
    try:
        return decode_bytes(sample.image)
    except ValueError as error:
        raise sample.error(f"its image {error}") from error


def decode_bytes(data: bytes) -> Image.Image:
    """An encoded image as RGB, as :func:`decode` does it.

    Raises:
        ValueError: if it does not decode, as the end of a sentence.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on odd files; what matters is an exception
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                # A file of some kilobytes may claim any size, and decoding it would take all memory.
                raise ValueError(f"has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
            return on_white(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ValueError("is of no format that is known") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise error if str(error).startswith("has ") else ValueError(f"does not decode: {error}") from error


def on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
