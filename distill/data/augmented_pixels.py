"""Applies the augmentations of a view to its pixels, by torchvision's functions.

They are applied to the view after it was resized, for teacher and student alike. Compared with augmenting at one
resolution and resizing then, what is linear in the pixels differs by rounding alone (grey; brightness and saturation
without clipping); shear, translation and rotation differ by interpolation; blur and erasing by the grid of pixels.
Posterize, solarize, hue and whatever is clipped differ at edges, which resizing mixes; sharpness compares neighbouring
pixels, so it acts on finer detail the higher the resolution is. Contrast depends on the mean, which resizing hardly
changes. Autocontrast and equalize depend on extremes and histogram, which it changes a lot: they are tables of 256
values, and all resolutions take the table of one small rendering of the view.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torchvision.transforms.v2 import functional

from distill.data.augmentations import Operation

GREY = 128  # fills what is erased, and what shear, translation and rotation leave empty
MEASURED = 64  # side, in pixels, of the rendering from which tables are made
FILL = {"interpolation": functional.InterpolationMode.BILINEAR, "fill": [float(GREY)] * 3}


def apply(
    pixels: torch.Tensor, operations: tuple[Operation, ...], render: Callable[[int], torch.Tensor]
) -> torch.Tensor:
    """[3, side, side] uint8 → [3, side, side] uint8: a view's pixels after all operations.

    Args:
        pixels: the view without operations.
        operations: in the order in which they are applied.
        render: from a side to the same view at that resolution, without operations.
    """
    measured = render(MEASURED) if any(operation.name in TABLES for operation in operations) else None
    for operation in operations:
        if measured is not None and operation.name in TABLES:
            table = TABLES[operation.name](measured)
            pixels, measured = looked_up(pixels, table), looked_up(measured, table)
            continue
        function = FUNCTIONS[operation.name]
        pixels = function(pixels, *operation.values)
        measured = None if measured is None else function(measured, *operation.values)
    return pixels


def looked_up(pixels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """[3, side, side] uint8: every value replaced by that of its channel in a table [3, 256] uint8."""
    return table.gather(1, pixels.flatten(1).long()).view_as(pixels)


def autocontrast_table(pixels: torch.Tensor) -> torch.Tensor:
    """[3, 256] uint8: stretches each channel to all 256 values, as torchvision's ``autocontrast`` does."""
    low, high = (value.float() for value in pixels.flatten(1).aminmax(dim=1, keepdim=True))
    levels = torch.arange(256.0).expand(len(pixels), -1)
    stretched = ((levels - low) / ((high - low).clamp(min=1) * (1 / 255))).clamp(0, 255)  # rounded as there
    return torch.where(high > low, stretched, levels).to(torch.uint8)


def equalize_table(pixels: torch.Tensor) -> torch.Tensor:
    """[3, 256] uint8: makes all values of each channel equally frequent, as torchvision's ``equalize`` does."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in pixels.int()])
    levels = torch.arange(256)
    last = (levels * (counts > 0)).amax(1, keepdim=True)
    step = (counts.sum(1, keepdim=True) - counts.gather(1, last)) // 255
    table = ((step // 2 + counts.cumsum(1) - counts) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step > 0, table, levels).to(torch.uint8)


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
}
TABLES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "autocontrast": autocontrast_table,
    "equalize": equalize_table,
}
