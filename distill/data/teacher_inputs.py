"""A teacher's part of a batch: rows of its cache, the pixels of the student's view, or the captions in its tokens."""

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
class ShownSample:
    """A sample as an epoch shows it.

    Attributes:
        sample: its number.
        number, view: which view of the image, and that view.
        image: decoded; None where the run does not read images.
        captions: those drawn; empty where the run does not read captions.
    """

    sample: int
    number: int
    view: View
    image: Image.Image | None
    captions: Sequence[str]


class TeacherInput(Protocol):
    """The source of one teacher's part of a batch.

    Attributes:
        views: how many views of an image there are; None for any number.
        reads: the modalities of a sample that it needs.
    """

    views: int | None
    reads: tuple[str, ...]

    def take(self, shown: ShownSample) -> dict[str, torch.Tensor]:
        """One sample's rows of an entry of ``Batch.teachers``."""


class FromCache:
    """Rows of a teacher cache: every cached output, [1, …] float32."""

    reads: tuple[str, ...] = ()

    def __init__(self, cache: Cache, shards: Shards) -> None:
        self.cache, self.shards = cache, shards
        self.views: int | None = cache.table.views

    def take(self, shown: ShownSample) -> dict[str, torch.Tensor]:
        rows = self.cache.row(self.shards, shown.sample, shown.number)
        return {name: row[None] for name, row in rows.items()}


class FromPixels:
    """The student's view at the teacher's own resolution: "image" [1, 3, s, s] uint8."""

    reads: tuple[str, ...] = ("image",)
    views: int | None = None

    def __init__(self, side: int, interpolation: str) -> None:
        self.side, self.interpolation = side, interpolation

    def take(self, shown: ShownSample) -> dict[str, torch.Tensor]:
        assert shown.image is not None
        return {"image": shown.view.render(shown.image, self.side, self.interpolation)[None]}


class FromCaptions:
    """The captions as the teacher's own tokens: "text" [C, context] int64."""

    reads: tuple[str, ...] = ("text",)
    views: int | None = None

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def take(self, shown: ShownSample) -> dict[str, torch.Tensor]:
        return {"text": self.tokenizer.encode(shown.captions)}
