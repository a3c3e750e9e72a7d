"""What corruptions are made of: blurs, displacements and random textures. Pictures are float64 [H, W, C]."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from distill.errors import UserError


def scipy_module(name: str) -> ModuleType:
    """A module of SciPy.

    Raises:
        UserError: if SciPy is not installed.
    """
    from importlib import import_module

    try:
        return import_module(f"scipy.{name}")
    except ImportError as error:
        raise UserError("Corruptions need SciPy.", "Run: pip install 'distill[evals]'") from error


def blurred(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The convolution with a kernel [2a + 1, 2b + 1] of a picture that goes on mirrored beyond its borders."""
    above, left = (n // 2 for n in kernel.shape)
    padded = np.pad(pixels, ((above, above), (left, left), (0, 0)), mode="symmetric")
    found: np.ndarray = scipy_module("signal").fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))
    return found


def smooth(pixels: np.ndarray, deviation: float, reach: float = 4) -> np.ndarray:
    """Each channel blurred by a Gaussian, up to ``reach`` standard deviations (in pixels) from its centre."""
    found: np.ndarray = scipy_module("ndimage").gaussian_filter(
        pixels, (deviation, deviation, 0), mode="reflect", truncate=reach
    )
    return found


def disk(radius: float) -> np.ndarray:
    """A kernel that is the same within ``radius`` pixels and 0 outside; pixels at the border count in part."""
    reach = int(np.ceil(radius))
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(down, right), 0, 1)
    normalised: np.ndarray = kernel / kernel.sum()
    return normalised


def line(radius: float, deviation: float, angle: float) -> np.ndarray:
    """A kernel of half a Gaussian along a line from the centre, as ImageMagick's motion blur.

    Args:
        radius: half the line's length, in pixels.
        deviation: the Gaussian's standard deviation, in pixels.
        angle: of the line, in degrees, clockwise from the right.
    """
    steps = np.arange(0, max(1.0, 2 * radius) + 0.25, 0.5)
    weights = np.exp(-(steps**2) / (2 * max(deviation, 0.1) ** 2))
    turn = np.deg2rad(angle)
    reach = int(np.ceil(steps[-1])) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    down, right = reach + steps * np.sin(turn), reach + steps * np.cos(turn)
    for row, of_row in shares(down):
        for column, of_column in shares(right):
            np.add.at(kernel, (row, column), weights * of_row * of_column)
    normalised: np.ndarray = kernel / kernel.sum()
    return normalised


def shares(places: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two whole numbers next to each place, and the share of each in it."""
    below = np.floor(places).astype(int)
    return [(below, below + 1 - places), (below + 1, places - below)]


def sampled(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The picture's values at ``places`` [2, H, W], rows and columns, interpolated; mirrored beyond its borders."""
    at = scipy_module("ndimage").map_coordinates
    return np.stack([at(pixels[..., c], places, order=1, mode="mirror") for c in range(pixels.shape[2])], axis=2)


def displaced(pixels: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Each pixel is taken from a place that is ``shifts`` [2, H, W] pixels away, down and to the right."""
    return sampled(pixels, np.indices(pixels.shape[:2]) + shifts)


def moved(pixels: np.ndarray, shifts: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """An affine map, and then :func:`displaced`.

    Args:
        pixels: [H, W, C].
        shifts: [2, H, W] pixels.
        corners: [3, 2] by how many pixels the map moves three corners of a square in the middle of the picture.
    """
    shape = np.array(pixels.shape[:2])
    middle, half = (shape - 1) / 2, min(shape) / 3
    square = middle + half * np.array([[1, 1], [1, -1], [-1, -1]])
    # The map from where the corners come to lie, back to where they were: a matrix [3, 2] for rows (y, x, 1).
    back = np.linalg.lstsq(np.hstack([square + corners, np.ones((3, 1))]), square, rcond=None)[0]
    places = np.indices(pixels.shape[:2]) + shifts
    return sampled(pixels, np.tensordot(back[:2].T, places, axes=1) + back[2][:, None, None])


def zoomed(pixels: np.ndarray, factor: float) -> np.ndarray:
    """The middle of a picture, enlarged to its size."""
    middle = (np.array(pixels.shape[:2]) - 1)[:, None, None] / 2
    return sampled(pixels, middle + (np.indices(pixels.shape[:2]) - middle) / factor)


def resized(layer: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[h, w] → [H, W] by linear interpolation."""
    places = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(layer.shape, shape, strict=True)]
    return sampled(layer[..., None], np.stack(np.meshgrid(*places, indexing="ij")))[..., 0]


def fractal(shape: tuple[int, int], random: np.random.Generator, decline: float) -> np.ndarray:
    """[H, W] noise from 0 to 1 in which an oscillation of f periods has an amplitude of f ** -``decline``."""
    side = max(shape)
    periods = np.hypot(np.fft.fftfreq(side, 1 / side)[:, None], np.fft.rfftfreq(side, 1 / side)[None])
    periods[0, 0] = np.inf  # the mean is decided below
    found = np.fft.irfft2(np.fft.rfft2(random.normal(size=(side, side))) * periods**-decline, s=(side, side))
    found = found[: shape[0], : shape[1]]
    spread = np.ptp(found)
    normalised: np.ndarray = (found - found.min()) / spread if spread else np.zeros(shape)
    return normalised
