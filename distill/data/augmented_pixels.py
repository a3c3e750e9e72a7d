"""Applies the augmentations of a view to its pixels, by torchvision's functions.

They are applied to the view after it was resized, for teacher and student alike. Compared with augmenting at one
resolution and resizing then, what is linear in the pixels differs by rounding alone (grey; brightness and saturation
without clipping); shear, translation and rotation differ by interpolation; blur and erasing by the grid of pixels.
Three kinds differ by more: contrast, autocontrast and equalize depend on statistics of all pixels, which resizing
smoothes; posterize, solarize, hue and whatever is clipped act on edges, which resizing mixes; and sharpness compares
neighbouring pixels, so it acts on finer detail the higher the resolution is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torchvision.transforms.v2 import functional

from distill.data.augmentations import Operation

GREY = 128  # fills what is erased, and what shear, translation and rotation leave empty
FILL = {"interpolation": functional.InterpolationMode.BILINEAR, "fill": [float(GREY)] * 3}


def apply(pixels: torch.Tensor, operations: tuple[Operation, ...]) -> torch.Tensor:
    """[3, side, side] uint8 → [3, side, side] uint8: a view's pixels after all operations."""
    for operation in operations:
        pixels = FUNCTIONS[operation.name](pixels, *operation.values)
    return pixels


def sheared(pixels: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Pixels sheared by the tangents of two angles, around the upper left corner as in torchvision's RandAugment."""
    angles = [math.degrees(math.atan(tangent)) for tangent in (x, y)]
    return functional.affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0], **FILL)


def translated(pixels: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Pixels moved by shares of the side; by fractions of a pixel too, so that all resolutions are moved alike."""
    distance = [share * pixels.shape[-1] for share in (x, y)]
    return functional.affine(pixels, angle=0.0, translate=distance, scale=1.0, shear=[0.0, 0.0], **FILL)


def blurred(pixels: torch.Tensor, sigma: float) -> torch.Tensor:
    """Pixels blurred with a standard deviation that is a share of the side.

    The kernel reaches to three standard deviations, but not beyond what mirroring at the border gives.
    """
    side = pixels.shape[-1]
    radius = min(math.ceil(3 * sigma * side), side - 1)
    return functional.gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma * side] * 2) if radius else pixels


def erased(pixels: torch.Tensor, left: float, top: float, right: float, bottom: float) -> torch.Tensor:
    """Pixels with a grey rectangle, whose borders are shares of the side."""
    x, y, end_x, end_y = (round(share * pixels.shape[-1]) for share in (left, top, right, bottom))
    grey = torch.tensor(GREY, dtype=pixels.dtype)
    return functional.erase(pixels, i=y, j=x, h=end_y - y, w=end_x - x, v=grey)


FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
    "hue": functional.adjust_hue,
    "grayscale": lambda pixels: functional.rgb_to_grayscale(pixels, num_output_channels=3),
    "gaussian_blur": blurred,
    "erase": erased,
    "shear_x": lambda pixels, tangent: sheared(pixels, tangent, 0.0),
    "shear_y": lambda pixels, tangent: sheared(pixels, 0.0, tangent),
    "translate_x": lambda pixels, share: translated(pixels, share, 0.0),
    "translate_y": lambda pixels, share: translated(pixels, 0.0, share),
    "rotate": lambda pixels, degrees: functional.rotate(pixels, degrees, **FILL),
    "sharpness": functional.adjust_sharpness,
    "posterize": lambda pixels, bits: functional.posterize(pixels, int(bits)),
    "solarize": lambda pixels, share: functional.solarize(pixels, 255 * share),
    "autocontrast": functional.autocontrast,
    "equalize": functional.equalize,
}
