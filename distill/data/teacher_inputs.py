"""Where a teacher's part of a batch comes from: its cache, the pixels of the student's view, or the captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from PIL import Image

from distill.data.cache import Cache
from distill.data.shards import Shards
from distill.data.views import View

if TYPE_CHECKING:
    from teachers import TextTokenizer


@dataclass(frozen=True)
class Shown:
    """How a sample is shown.

    Attributes:
        sample: its number.
        number, view: which view of the image, and that view.
        image: decoded; None where nobody looks at it.
        captions: those drawn.
    """

    sample: int
    number: int
    view: View
    image: Image.Image | None
    captions: Sequence[str]


class TeacherInput(Protocol):
    """One teacher's source.

    Attributes:
        views: how many views of an image there are; None for any number.
        of_pixels: whether it looks at the image.
    """

    views: int | None
    of_pixels: bool

    def take(self, shown: Shown) -> torch.Tensor:
        """A sample's entry of ``Batch.teachers``."""


class FromCache:
    """Rows of a teacher cache, [1, P] float32."""

    of_pixels = False

    def __init__(self, cache: Cache, shards: Shards) -> None:
        self.cache, self.shards = cache, shards
        self.views: int | None = cache.table.views

    def take(self, shown: Shown) -> torch.Tensor:
        return self.cache.row(self.shards, shown.sample, shown.number)[None]


class FromPixels:
    """The student's view at the teacher's own resolution, [1, 3, s, s] uint8."""

    of_pixels = True
    views: int | None = None

    def __init__(self, side: int, interpolation: str) -> None:
        self.side, self.interpolation = side, interpolation

    def take(self, shown: Shown) -> torch.Tensor:
        assert shown.image is not None
        return shown.view.render(shown.image, self.side, self.interpolation)[None]


class FromCaptions:
    """The captions as the teacher's own tokens, [C, context] int64."""

    of_pixels = False
    views: int | None = None

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def take(self, shown: Shown) -> torch.Tensor:
        return self.tokenizer.encode(shown.captions)
