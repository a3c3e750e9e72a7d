"""A teacher's entry in a batch: outputs from its cache, pixels of the student's view, or captions as its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from PIL import Image

from distill.data.caption_cache import CaptionCache
from distill.data.shards import Shards
from distill.data.view_cache import ViewCache
from distill.data.views import View

if TYPE_CHECKING:
    from teachers import TextTokenizer


@dataclass(frozen=True)
class TrainingSample:
    """A sample with the view and the captions drawn for an epoch.

    Attributes:
        sample: the number of the sample.
        number: the number of the view.
        view: the view.
        image: the decoded image; None if the run does not read images.
        captions: the captions; empty if the run does not read captions.
        caption_numbers: which of the sample's captions they are, counted from 0.
    """

    sample: int
    number: int
    view: View
    image: Image.Image | None
    captions: Sequence[str]
    caption_numbers: Sequence[int] = ()


class TeacherInput(Protocol):
    """Makes one teacher's entries of a batch.

    Attributes:
        views: the number of views of an image that are available; None if any view is.
        reads: the modalities of a sample that it needs.
    """

    views: int | None
    reads: tuple[str, ...]

    def entry(self, sample: TrainingSample) -> dict[str, torch.Tensor]:
        """One sample's tensors by name, which are stacked to an entry of ``Batch.teachers``."""


class CachedOutputs:
    """Outputs from a teacher cache: every cached output by name, [1, …] float32."""

    reads: tuple[str, ...] = ()

    def __init__(self, cache: ViewCache, shards: Shards) -> None:
        self.cache, self.shards = cache, shards
        self.views: int | None = cache.table.views

    def entry(self, sample: TrainingSample) -> dict[str, torch.Tensor]:
        rows = self.cache.row(self.shards, sample.sample, sample.number)
        return {name: row[None] for name, row in rows.items()}


class CachedCaptions:
    """Outputs of the captions from a text teacher's cache: every cached output by name, [C, …] float32."""

    reads: tuple[str, ...] = ("text",)
    views: int | None = None

    def __init__(self, cache: CaptionCache, shards: Shards) -> None:
        self.cache, self.shards = cache, shards

    def entry(self, sample: TrainingSample) -> dict[str, torch.Tensor]:
        return self.cache.rows(self.shards, sample.sample, sample.caption_numbers, sample.captions)


class NoInput:
    """Nothing: what a text teacher has of pictures without captions."""

    reads: tuple[str, ...] = ()
    views: int | None = None

    def entry(self, sample: TrainingSample) -> dict[str, torch.Tensor]:
        return {}


class PixelInput:
    """The student's view at the teacher's own resolution: "image" [1, 3, s, s] uint8."""

    reads: tuple[str, ...] = ("image",)
    views: int | None = None

    def __init__(self, side: int, interpolation: str) -> None:
        self.side, self.interpolation = side, interpolation

    def entry(self, sample: TrainingSample) -> dict[str, torch.Tensor]:
        assert sample.image is not None
        return {"image": sample.view.render(sample.image, self.side, self.interpolation)[None]}


class TokenInput:
    """Token ids of the captions from the teacher's own tokenizer: "text" [C, context] int64."""

    reads: tuple[str, ...] = ("text",)
    views: int | None = None

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def entry(self, sample: TrainingSample) -> dict[str, torch.Tensor]:
        return {"text": self.tokenizer.encode(sample.captions)}
