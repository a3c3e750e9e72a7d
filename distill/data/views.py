"""Views: deterministic augmentations that student and teacher share.

A view of an image is a crop, perhaps mirrored, with the changes that ``data.augment`` asks for. It is a function of
the sample's key, the view's number and the recipe's ``data.crop``, ``data.flip`` and ``data.augment``. So a teacher's
embedding of a view can be computed once, and the student is later given the same view at its own resolution. View 0 is
always the plain image: its largest central square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from distill.augment_table import NO_AUGMENT, Augment
from distill.data import augmentations, images
from distill.data.augmentations import Operation
from distill.data.keyed_random import uniform
from distill.data.sample import Sample

WIDEST = 4 / 3  # the largest aspect ratio of a crop, and the inverse of the smallest
ATTEMPTS = 10  # to draw a crop that fits into the image


@dataclass(frozen=True)
class Views:
    """The distribution from which the views of images are drawn.

    Attributes:
        crop: smallest and largest share of the image's area that a crop covers; (1, 1) stands for the central square
            of view 0. The recipe's ``data.crop``.
        flip: whether half of the views are mirrored; the recipe's ``data.flip``.
        rule: 2 draws crops as torchvision's RandomResizedCrop does; 1 is that of runs of version 0.1.0, whose crops of
            elongated images are squashed.
        augment: how views are changed after crop and flip; the recipe's ``[data.augment]``.
    """

    crop: tuple[float, float]
    flip: bool
    rule: int = 2
    augment: Augment = NO_AUGMENT

    def draw(self, key: str, view: int, size: tuple[int, int]) -> View:
        """A view of an image; the same arguments always give the same view.

        Args:
            key: the sample's key.
            view: number of the view; 0 is the plain image.
            size: (width, height) of the image in pixels.
        """
        if view == 0:
            return View(central_square(*size), False)
        share, shape, x, y, coin = uniform(f"{view} {key}", 5)
        mirrored = self.flip and coin < 0.5
        operations = augmentations.draw(self.augment, f"{view} {key}")
        if self.crop == (1.0, 1.0):
            return View(central_square(*size), mirrored, operations)
        w, h = CROP_SIZES[self.rule](self.crop, size, (share, shape), f"{view} {key}")
        if w == 0:
            w, h = widest_centre(*size)
            x = y = 0.5
        left, top = int(x * (size[0] - w + 1)), int(y * (size[1] - h + 1))
        return View((left, top, left + w, top + h), mirrored, operations)


def central_square(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest central square."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def crop_size(
    crop: tuple[float, float], size: tuple[int, int], first: tuple[float, float], name: str
) -> tuple[int, int]:
    """(width, height) of a crop, as torchvision's ``RandomResizedCrop`` draws it.

    The share of the area is uniformly distributed and so is the logarithm of the aspect ratio, from 3:4 to 4:3. What
    would exceed the image is drawn again, up to ten times in all.

    Args:
        crop: smallest and largest share of the area.
        size: (width, height) of the image.
        first: two random numbers, for the first attempt.
        name: that of the view, from which those of further attempts follow.

    Returns:
        (0, 0) if every attempt exceeds the image.
    """
    for attempt in range(ATTEMPTS):
        share, shape = uniform(f"{name} {attempt}", 2) if attempt else first
        area = (crop[0] + share * (crop[1] - crop[0])) * size[0] * size[1]
        stretch = math.exp((2 * shape - 1) * math.log(WIDEST))
        w, h = round(math.sqrt(area * stretch)), round(math.sqrt(area / stretch))
        if 0 < w <= size[0] and 0 < h <= size[1]:
            return w, h
    return 0, 0


def widest_centre(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the largest crop with an aspect ratio from 3:4 to 4:3, for images that are longer."""
    if width / height < 1 / WIDEST:
        return width, round(width * WIDEST)
    return (round(height * WIDEST), height) if width / height > WIDEST else (width, height)


def squashed_crop_size(
    crop: tuple[float, float], size: tuple[int, int], first: tuple[float, float], name: str
) -> tuple[int, int]:
    """(width, height) of a crop by the rule of version 0.1.0: what exceeds the image is cut off. See ``crop_size``."""
    share, shape = first
    area = (crop[0] + share * (crop[1] - crop[0])) * size[0] * size[1]
    stretch = math.exp((2 * shape - 1) * min(math.log(WIDEST), -math.log(crop[0])))
    return clip_pixels(math.sqrt(area * stretch), size[0]), clip_pixels(math.sqrt(area / stretch), size[1])


CROP_SIZES = {1: squashed_crop_size, 2: crop_size}  # by Views.rule
PLAIN_VIEWS = Views(crop=(1.0, 1.0), flip=False)  # for inference, which uses view 0 only


def clip_pixels(length: float, most: int) -> int:
    """A length rounded to whole pixels, at least 1 and at most ``most``."""
    return max(1, min(most, round(length)))


@dataclass(frozen=True)
class View:
    """One crop of an image, perhaps mirrored and changed further.

    Attributes:
        box: (left, top, right, bottom) in pixels of the image.
        mirrored: left to right.
        operations: applied to the resized and mirrored crop, in this order.
    """

    box: tuple[int, int, int, int]
    mirrored: bool
    operations: tuple[Operation, ...] = ()

    def followed_by(self, operations: tuple[Operation, ...]) -> View:
        """This view with further operations after its own."""
        return replace(self, operations=self.operations + operations)

    def render(self, image: Image.Image, side: int, interpolation: str = "bicubic") -> torch.Tensor:
        """[3, side, side] uint8: the crop, resized to ``side`` pixels, mirrored and with its operations applied.

        It is resized with antialiasing, as by Pillow, but by torch, which was measured to be three times as fast. The
        results differ by rounding and clipping: by up to two grey levels on drawings, by more on noise.

        Args:
            image: RGB.
            side: width and height of the result, in pixels.
            interpolation: ``bicubic`` or ``bilinear``.
        """
        crop = torch.from_numpy(np.array(image.crop(self.box))).permute(2, 0, 1)[None]

        def resized(side: int, interpolation: str = "bilinear") -> torch.Tensor:
            small = interpolate(crop, size=(side, side), mode=interpolation, antialias=True)[0]
            return (small.flip(-1) if self.mirrored else small).contiguous()

        pixels = resized(side, interpolation)
        if self.operations:
            from distill.data.augmented_pixels import apply  # imports torchvision, which takes seconds

            pixels = apply(pixels, self.operations, resized).contiguous()
        return pixels


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
