"""The recipe's ``[data.augment]`` and ``[data.student_augment]``: changes of a view's colours, shape and content."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from distill.tables import Table


class Augment(Table):
    """Augmentations after crop and flip, in this order; by default none. ``[data.augment]`` changes the views that
    teacher and student share, ``[data.student_augment]`` what the student alone sees, anew in every epoch.

    Attributes:
        rand_augment: [number, magnitude]: how many operations of RandAugment (arXiv 1909.13719) are applied, and how
            strongly, from 0 to 30; as torchvision's ``RandAugment(num_ops, magnitude)``, whose defaults are [2, 9].
        color_jitter: [brightness, contrast, saturation, hue], as torchvision's ``ColorJitter``: the first three are
            multiplied by a factor from 1 - x (at least 0) to 1 + x, the hue is turned by up to x of the circle, which
            is at most 0.5.
        color_jitter_prob: the probability of ``color_jitter``, above 0 and at most 1.
        grayscale_prob: the probability that a view is grey.
        gaussian_blur_prob: the probability that a view is blurred, with a standard deviation from 0.1/224 to 2/224 of
            its side (SimCLR, arXiv 2002.05709).
        random_erasing_prob: the probability that a rectangle of 2 % to 33 % of the area becomes grey (Random Erasing,
            arXiv 1708.04896), as torchvision's ``RandomErasing``.
    """

    rand_augment: tuple[int, int] = (0, 0)
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    color_jitter_prob: float = Field(default=1.0, gt=0, le=1)
    grayscale_prob: float = Field(default=0.0, ge=0, le=1)
    gaussian_blur_prob: float = Field(default=0.0, ge=0, le=1)
    random_erasing_prob: float = Field(default=0.0, ge=0, le=1)

    @field_validator("rand_augment")
    @classmethod
    def in_range(cls, value: tuple[int, int]) -> tuple[int, int]:
        number, magnitude = value
        if number < 0 or not 0 <= magnitude <= 30 or (magnitude and not number):
            raise ValueError("must be [number of operations, magnitude from 0 to 30], such as [2, 9]")
        return value

    @field_validator("color_jitter")
    @classmethod
    def not_negative(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if min(value) < 0 or value[3] > 0.5:
            raise ValueError("must be [brightness, contrast, saturation, hue], from 0 on, hue at most 0.5")
        return value

    @model_validator(mode="after")
    def has_jitter(self) -> Augment:
        if self.color_jitter_prob != 1 and not any(self.color_jitter):
            raise ValueError("color_jitter_prob is the probability of color_jitter: set that, too")
        return self


NO_AUGMENT = Augment()  # equal to every table that changes nothing
