"""Corruptions of pictures after ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261), computed when needed.

The fifteen kinds and five severities have the parameters of ImageNet-C. The pixels are **not** those of ImageNet-C,
and error rates measured with them cannot be compared with published ones: noise, fog and snow are drawn by other
generators, frost is drawn where ImageNet-C pastes photographs of it, blurs are computed by other libraries, and
glass blur does not swap pixels. Lengths in pixels, which ImageNet-C gives for pictures of 224 × 224, are scaled with a
picture's shorter side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from distill.errors import UserError, did_you_mean
from distill.metrics.effects import blurred, disk, displaced, fractal, line, moved, resized, smooth, zoomed

if TYPE_CHECKING:
    from PIL.Image import Image

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Picture:
    """What a corruption is given.

    Attributes:
        pixels: [H, W, 3] float64 in [0, 1].
        scale: the length of its shorter side as a multiple of 224 pixels.
        random: the random numbers of this picture.
    """

    pixels: np.ndarray
    scale: float
    random: np.random.Generator

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def gaussian_noise(picture: Picture, deviation: float) -> np.ndarray:
    """Normally distributed noise of each channel of each pixel."""
    return picture.pixels + picture.random.normal(scale=deviation, size=picture.pixels.shape)


def shot_noise(picture: Picture, photons: float) -> np.ndarray:
    """Poisson noise: white is ``photons`` counts."""
    return picture.random.poisson(picture.pixels * photons) / photons


def impulse_noise(picture: Picture, share: float) -> np.ndarray:
    """A share of all values becomes 0 or 1."""
    hit, high = picture.random.random((2, *picture.pixels.shape))
    return np.where(hit < share, high < 0.5, picture.pixels)


def defocus_blur(picture: Picture, radius: float) -> np.ndarray:
    """Each point becomes a disk."""
    return blurred(picture.pixels, disk(radius * picture.scale))


def glass_blur(picture: Picture, deviation: float, distance: float, times: int) -> np.ndarray:
    """Blur; each pixel is taken from a random place near it, ``times`` times; blur again.

    ImageNet-C swaps pixels, one after the other, which carries some of them further: this is slightly weaker.
    """
    pixels = smooth(picture.pixels, deviation * picture.scale)
    for _ in range(times):
        shifts = picture.random.uniform(-distance, distance, (2, *picture.shape)) * picture.scale
        pixels = displaced(pixels, shifts)
    return smooth(pixels, deviation * picture.scale)


def motion_blur(picture: Picture, radius: float, deviation: float) -> np.ndarray:
    """Each point becomes a line in a random direction within 45° of the horizontal."""
    angle = picture.random.uniform(-45, 45)
    return blurred(picture.pixels, line(radius * picture.scale, deviation * picture.scale, angle))


def zoom_blur(picture: Picture, end: float, step: float) -> np.ndarray:
    """The mean of the picture and enlargements of it, by 1 to ``end``."""
    factors = np.arange(1, end, step)
    total = picture.pixels + sum(zoomed(picture.pixels, factor) for factor in factors)
    return total / (len(factors) + 1)


def snow(
    picture: Picture,
    mean: float,
    deviation: float,
    size: float,
    least: float,
    radius: float,
    blur: float,
    kept: float,
) -> np.ndarray:
    """Flakes: noise of ``size`` pixels above a threshold, blurred downwards, on a whitened picture."""
    height, width = (max(1, round(n / size / picture.scale)) for n in picture.shape)
    flakes = resized(picture.random.normal(mean, deviation, (height, width)), picture.shape)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    angle = picture.random.uniform(-135, -45)
    flakes = blurred(flakes[..., None], line(radius * picture.scale, blur * picture.scale, angle))
    grey = (picture.pixels @ [0.299, 0.587, 0.114])[..., None]
    white = np.maximum(picture.pixels, grey * 1.5 + 0.5)
    return kept * picture.pixels + (1 - kept) * white + flakes + np.rot90(flakes, 2)


def frost(picture: Picture, kept: float, strength: float) -> np.ndarray:
    """A layer of ice: bluish ridges, denser in some regions than in others.

    It is as bright as needed to change two photographs as much, in the mean, as ImageNet-C's photographs of frost do.
    """
    ridges = sum(
        (1 - np.abs(2 * fractal(picture.shape, picture.random, decline) - 1)) ** sharpness
        for decline, sharpness in ((1.6, 2), (1.3, 6))
    )
    density = 0.4 + 0.6 * fractal(picture.shape, picture.random, 3)
    ice = np.clip(ridges * density, 0, 1)[..., None]
    return kept * picture.pixels + strength * (0.3 + 0.7 * ice) * [0.78, 0.88, 0.96]


def fog(picture: Picture, strength: float, decay: float) -> np.ndarray:
    """A cloud of fractal noise, whose structures lose the factor ``decay``² in contrast when they halve in size."""
    brightest = picture.pixels.max()
    cloud = fractal(picture.shape, picture.random, 1 + 2 * np.log2(decay))[..., None]
    return (picture.pixels + strength * cloud) * brightest / (brightest + strength)


def brightness(picture: Picture, added: float) -> np.ndarray:
    """A higher value in the HSV colour space: hue and saturation stay."""
    value = picture.pixels.max(axis=2, keepdims=True)
    colour = np.divide(picture.pixels, value, out=np.ones_like(picture.pixels), where=value > 0)
    return colour * np.minimum(value + added, 1)


def contrast(picture: Picture, kept: float) -> np.ndarray:
    """A smaller distance of all values from their channel's mean."""
    mean = picture.pixels.mean(axis=(0, 1))
    return mean + kept * (picture.pixels - mean)


def elastic_transform(picture: Picture, strength: float, deviation: float, corners: float) -> np.ndarray:
    """A random affine map, and small regions stretched and shifted; lengths are in multiples of 244 pixels."""
    unit = 244 * picture.scale
    noise = picture.random.uniform(-1, 1, (*picture.shape, 2))
    # Blurring noise divides its amplitude by the blur's length: hence one factor of the scale more.
    shifts = smooth(noise, deviation * unit, reach=3) * strength * unit * picture.scale
    return moved(picture.pixels, np.moveaxis(shifts, 2, 0), picture.random.uniform(-1, 1, (3, 2)) * corners * unit)


def pixelate(picture: Picture, share: float) -> np.ndarray:
    """Fewer pixels: a share of the height and of the width."""
    from PIL import Image

    height, width = picture.shape
    small = as_image(picture.pixels).resize(
        (max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def jpeg_compression(picture: Picture, quality: int) -> np.ndarray:
    """Saved as JPEG and read again."""
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    as_image(picture.pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB")) / 255


# What each corruption is given at severities 1 to 5; the values of ImageNet-C.
CORRUPTIONS: dict[Callable[..., np.ndarray], tuple[Any, ...]] = {
    gaussian_noise: (0.08, 0.12, 0.18, 0.26, 0.38),
    shot_noise: (60, 25, 12, 5, 3),
    impulse_noise: (0.03, 0.06, 0.09, 0.17, 0.27),
    defocus_blur: (3, 4, 6, 8, 10),
    glass_blur: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    motion_blur: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    zoom_blur: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    snow: (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    frost: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    fog: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    brightness: (0.1, 0.2, 0.3, 0.4, 0.5),
    contrast: (0.4, 0.3, 0.2, 0.1, 0.05),
    elastic_transform: ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    pixelate: (0.6, 0.5, 0.4, 0.3, 0.25),
    jpeg_compression: (25, 18, 15, 10, 7),
}
BY_NAME = {function.__name__: function for function in CORRUPTIONS}
NAMES = tuple(BY_NAME)


@overload
def apply(name: str, picture: np.ndarray, severity: int, key: str | int = ...) -> np.ndarray: ...


@overload
def apply(name: str, picture: Image, severity: int, key: str | int = ...) -> Image: ...


def apply(name: str, picture: Any, severity: int, key: str | int = "") -> Any:
    """Corrupt a picture.

    Args:
        name: one of ``NAMES``.
        picture: uint8 [H, W, 3], or a PIL image, which is converted to RGB.
        severity: 1 to 5.
        key: whatever identifies the picture. Name, severity and key decide all random numbers.

    Returns:
        A new picture of the same kind and size.

    Raises:
        UserError: if there is no such corruption or severity, or SciPy is not installed.
        ValueError: if an array is not uint8 [H, W, 3], or empty.
    """
    if name not in BY_NAME:
        raise UserError(
            f"There is no corruption '{name}'.", did_you_mean(name, NAMES, f"There are {', '.join(NAMES)}.")
        )
    if severity not in SEVERITIES:
        raise UserError(f"The severity of a corruption is {severity}.", "It must be 1, 2, 3, 4 or 5.")
    is_array = isinstance(picture, np.ndarray)
    pixels = picture if is_array else np.asarray(picture.convert("RGB"))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"a picture must be uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    seed = hashlib.blake2b(f"{name} {severity} {key}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
    random = np.random.default_rng(int.from_bytes(seed, "little"))
    function = BY_NAME[name]
    values = CORRUPTIONS[function][severity - 1]
    given = Picture(pixels / 255, min(pixels.shape[:2]) / 224, random)
    found = function(given, *(values if isinstance(values, tuple) else (values,)))
    return as_uint8(found) if is_array else as_image(found)


def as_uint8(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] in [0, 1], or beyond, as uint8."""
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def as_image(pixels: np.ndarray) -> Image:
    """[H, W, 3] in [0, 1], or beyond, as a PIL image."""
    from PIL import Image as images

    return images.fromarray(as_uint8(pixels))
