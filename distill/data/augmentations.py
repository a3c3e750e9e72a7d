"""Augmentations of views, drawn from keyed random numbers; ``augmented_pixels.py`` applies them.

An :class:`Operation` is independent of the resolution: lengths are shares of the view's side. So teacher and student,
who see the same view at their own resolutions, see the same augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

from distill.augment_table import NO_AUGMENT, Augment
from distill.data.keyed_random import uniform

ERASED_AREA = (0.02, 0.33)  # smallest and largest share of the area
ERASED_RATIO = (0.3, 3.3)  # smallest and largest ratio of height to width
ATTEMPTS = 10  # to draw a rectangle that fits into the view, as in torchvision
SIGMA = (0.1 / 224, 2 / 224)  # standard deviation of the blur, as a share of the side
JITTER = ("brightness", "contrast", "saturation", "hue")
ORDERS = tuple(permutations(range(len(JITTER))))
STRONGEST = 30  # the largest magnitude of RandAugment


@dataclass(frozen=True)
class Operation:
    """One change of a view's pixels.

    Attributes:
        name: a key of ``FUNCTIONS`` or ``TABLES`` in ``augmented_pixels.py``.
        values: its parameters, with lengths as shares of the view's side.
    """

    name: str
    values: tuple[float, ...] = ()


def draw(augment: Augment, name: str) -> tuple[Operation, ...]:
    """The operations on one view, in the order in which they are applied; the same for the same arguments.

    Args:
        augment: the distribution from which they are drawn.
        name: that of the view, on which all random numbers depend.
    """
    if augment == NO_AUGMENT:
        return ()
    drawn = draw_rand_augment(augment.rand_augment, name) + draw_jitter(augment, name)
    coins = uniform(f"augment {name}", 4)
    if coins[0] < augment.grayscale_prob:
        drawn += (Operation("grayscale"),)
    if coins[1] < augment.gaussian_blur_prob:
        drawn += (Operation("gaussian_blur", (between(SIGMA, coins[2]),)),)
    if coins[3] < augment.random_erasing_prob:
        drawn += draw_erasing(name)
    return drawn


def between(limits: tuple[float, float], share: float) -> float:
    """The number that lies at a share, 0 to 1, of the way from the lower limit to the upper one."""
    return limits[0] + share * (limits[1] - limits[0])


def draw_jitter(augment: Augment, name: str) -> tuple[Operation, ...]:
    """Changes of brightness, contrast, saturation and hue in a random order, as torchvision's ``ColorJitter``."""
    *shares, order, coin = uniform(f"color_jitter {name}", len(JITTER) + 2)
    if coin >= augment.color_jitter_prob:
        return ()
    drawn = []
    for number in ORDERS[int(order * len(ORDERS))]:
        width, share = augment.color_jitter[number], shares[number]
        limits = (-width, width) if JITTER[number] == "hue" else (max(0.0, 1 - width), 1 + width)
        drawn += [Operation(JITTER[number], (between(limits, share),))] if width else []
    return tuple(drawn)


def draw_erasing(name: str) -> tuple[Operation, ...]:
    """The erasing of (left, top, right, bottom), as shares of the side; nothing if ten rectangles did not fit."""
    for attempt in range(ATTEMPTS):
        area, ratio, x, y = uniform(f"random_erasing {attempt} {name}", 4)
        share = between(ERASED_AREA, area)
        aspect = math.exp(between((math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])), ratio))
        height, width = math.sqrt(share * aspect), math.sqrt(share / aspect)
        if height < 1 and width < 1:
            left, top = x * (1 - width), y * (1 - height)
            return (Operation("erase", (left, top, left + width, top + height)),)
    return ()


def draw_rand_augment(rand_augment: tuple[int, int], name: str) -> tuple[Operation, ...]:
    """Operations of RandAugment with the ranges of torchvision; "identity" among them leaves the view as it is."""
    count, magnitude = rand_augment
    drawn: tuple[Operation, ...] = ()
    for number in range(count):
        which, sign = uniform(f"rand_augment {number} {name}", 2)
        drawn += rand_augment_operation(int(which * len(RAND_AUGMENT)), magnitude, -1 if sign < 0.5 else 1)
    return drawn


def rand_augment_operation(number: int, magnitude: int, sign: int) -> tuple[Operation, ...]:
    """The operation with a number of ``RAND_AUGMENT``, at a magnitude from 0 to 30; none for the identity."""
    name, values = RAND_AUGMENT[number]
    return () if name == "identity" else (Operation(name, values(magnitude / STRONGEST, sign)),)


def signed(most: float, plain: float = 0.0) -> Callable[[float, int], tuple[float, ...]]:
    """A parameter that is ``plain`` at magnitude 0 and differs from it by ``most`` at the largest one."""
    return lambda strength, sign: (plain + sign * strength * most,)


# In torchvision's order: the name of an operation, and its values at a magnitude from 0 to 1 with a sign.
RAND_AUGMENT: tuple[tuple[str, Callable[[float, int], tuple[float, ...]]], ...] = (
    ("identity", lambda strength, sign: ()),
    ("shear_x", signed(0.3)),
    ("shear_y", signed(0.3)),
    ("translate_x", signed(150 / 331)),
    ("translate_y", signed(150 / 331)),
    ("rotate", signed(30.0)),
    ("brightness", signed(0.9, plain=1.0)),
    ("saturation", signed(0.9, plain=1.0)),
    ("contrast", signed(0.9, plain=1.0)),
    ("sharpness", signed(0.9, plain=1.0)),
    ("posterize", lambda strength, sign: (float(8 - round(4 * strength)),)),
    ("solarize", lambda strength, sign: (1 - strength,)),
    ("autocontrast", lambda strength, sign: ()),
    ("equalize", lambda strength, sign: ()),
)
