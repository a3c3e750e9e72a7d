"""Views: deterministic augmentations that student and teacher share.

A view of an image is a crop, perhaps mirrored. It is a function of the sample's key, the view's number and the
recipe's ``data.crop`` and ``data.flip``. So a teacher's embedding of a view can be computed once, and the student is
later given the same view at its own resolution. View 0 is always the plain image: its largest central square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from distill.data import images
from distill.data.keyed_random import uniform
from distill.data.shards import Sample


@dataclass(frozen=True)
class Views:
    """The distribution from which the views of images are drawn.

    Attributes:
        crop: smallest and largest share of the image's area that a crop covers; (1, 1) stands for the central square
            of view 0. The recipe's ``data.crop``.
        flip: whether half of the views are mirrored; the recipe's ``data.flip``.
    """

    crop: tuple[float, float]
    flip: bool

    def draw(self, key: str, view: int, size: tuple[int, int]) -> View:
        """A view of an image; the same arguments always give the same view.

        Args:
            key: the sample's key.
            view: number of the view; 0 is the plain image.
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
        # Aspect ratios from 3:4 to 4:3, the usual range, narrowed where a large crop would exceed the image.
        stretch = math.exp((2 * shape - 1) * min(math.log(4 / 3), -math.log(self.crop[0])))
        w, h = clip_pixels(math.sqrt(area * stretch), width), clip_pixels(math.sqrt(area / stretch), height)
        left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
        return View((left, top, left + w, top + h), mirrored)


PLAIN_VIEWS = Views(crop=(1.0, 1.0), flip=False)  # for inference, which uses view 0 only


def clip_pixels(length: float, most: int) -> int:
    """A length rounded to whole pixels, at least 1 and at most ``most``."""
    return max(1, min(most, round(length)))


@dataclass(frozen=True)
class View:
    """One crop of an image, perhaps mirrored.

    Attributes:
        box: (left, top, right, bottom) in pixels of the image.
        mirrored: left to right.
    """

    box: tuple[int, int, int, int]
    mirrored: bool

    def render(self, image: Image.Image, side: int, interpolation: str = "bicubic") -> torch.Tensor:
        """[3, side, side] uint8: the crop, resized to ``side`` pixels.

        It is resized with antialiasing, as by Pillow, but by torch, which was measured to be three times as fast. The
        results differ by rounding and clipping: by up to two grey levels on drawings, by more on noise.

        Args:
            image: RGB.
            side: width and height of the result, in pixels.
            interpolation: ``bicubic`` or ``bilinear``.
        """
        crop = torch.from_numpy(np.array(image.crop(self.box))).permute(2, 0, 1)[None]
        small = interpolate(crop, size=(side, side), mode=interpolation, antialias=True)[0]
        return (small.flip(-1) if self.mirrored else small).contiguous()


def decode(sample: Sample) -> Image.Image:
    """A sample's image as RGB, see :func:`distill.data.images.decode`.

    Raises:
        BadSample: if the sample has no image, or it does not decode.
    """
    if sample.image is None:
        raise sample.lacks("image: no KEY.jpg, KEY.png or the like")
    try:
        return images.decode(sample.image)
    except ValueError as error:
        raise sample.error(f"its image {error}") from error
