"""Embed collections of pictures, shards, and files of texts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from distill.data.loading import prefetch
from distill.data.shards import Shards
from distill.data.view_fill import PixelFormat, ViewPixels
from distill.data.views import PLAIN_VIEWS
from distill.errors import BadSample, UserError
from distill.progress import progress_bar
from distill.ship.image_text import ImageText
from distill.ship.picture_index import PictureIndex
from distill.ship.pictures import ANYTHING, Pictures, lines_of, reason_of

BATCH = 256
KEEP_SECONDS = 30  # after which what was embedded is kept, so that an interrupted command can go on


@dataclass
class Embedded:
    """Embeddings of a collection.

    Attributes:
        rows: [n, D] float32 unit rows.
        names: of the n rows: paths, keys or texts.
        skipped: (name, reason) of what could not be embedded.
        pictures: the numbers of the rows' pictures in their collection; empty for texts.
        new: how many rows were computed, and not known from an index.
    """

    rows: torch.Tensor
    names: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    new: int = 0


class Unusable(NamedTuple):
    """A picture that cannot be used."""

    error: UserError
    reason: str


class PreparedPictures(Dataset[Any]):
    """The pixels of pictures: item i is a tensor [3, S, S] uint8 for each image tower, or an error."""

    def __init__(self, pictures: Pictures, formats: Sequence[PixelFormat]) -> None:
        self.pictures, self.formats = pictures, formats

    def __getitem__(self, i: int) -> list[torch.Tensor] | Unusable:
        try:
            picture = self.pictures.read(i)
        except UserError as error:  # for the main process to raise: a loader process would wrap it in its traceback
            return Unusable(error, reason_of(error))  # the error's cause, of which the reason is, stays behind
        view = PLAIN_VIEWS.draw("", 0, picture.size)
        return [view.render(picture, side, interpolation) for _, side, interpolation in self.formats]

    @staticmethod
    def collate(items: list[list[torch.Tensor] | Unusable]) -> tuple[list[torch.Tensor], dict[int, Unusable]]:
        """The pixels [n, 3, S, S] of the pictures that can be used, and the errors of the others, by row."""
        errors = {row: item for row, item in enumerate(items) if isinstance(item, Unusable)}
        good = [item for item in items if not isinstance(item, Unusable)]
        return [default_collate(list(column)) for column in zip(*good, strict=True)], errors


def embed_pictures(
    model: ImageText,
    pictures: Pictures,
    strict: bool = False,
    workers: int = 0,
    index: PictureIndex | None = None,
) -> Embedded:
    """Embed the pictures of a collection, without augmentation.

    Args:
        model: the students.
        pictures: the collection.
        strict: raise at the first picture that cannot be used, instead of skipping it.
        workers: number of loader processes; 0 decodes in this one.
        index: where rows are known from; what is computed is written into it, also in between.

    Raises:
        UserError: if no picture can be used, or with ``strict`` one cannot.
    """
    known = index.find(pictures) if index is not None else np.full(len(pictures.names), -1)
    rows = np.zeros((len(pictures.names), model.config.width), dtype=np.float32)
    if index is not None:
        rows[known >= 0] = index.rows[known[known >= 0]]
    usable, skipped = known >= 0, list(pictures.skipped)
    wanted = np.flatnonzero(known < 0).tolist()

    def keep() -> None:
        if index is not None:
            chosen = np.flatnonzero(usable)
            index.write([pictures.names[i] for i in chosen], [pictures.states[i] for i in chosen], rows[chosen])

    kept = time.monotonic()
    try:
        for numbers, found, errors in embedded(model, pictures, wanted, workers):
            good = [number for row, number in enumerate(numbers) if row not in errors]
            rows[good], usable[good] = found, True
            for row, unusable in errors.items():
                if strict:
                    raise unusable.error
                skipped.append((pictures.names[numbers[row]], unusable.reason))
            if time.monotonic() - kept > KEEP_SECONDS:
                keep()
                kept = time.monotonic()
    except BaseException:  # an interruption among them
        keep()
        raise
    chosen = np.flatnonzero(usable)
    if not len(chosen):
        why = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"There is no picture that can be embedded{why}.", ANYTHING)
    if index is not None and (wanted or len(index.rows) != len(chosen)):
        keep()
    names = [pictures.names[i] for i in chosen]
    new = int(usable[wanted].sum())
    return Embedded(torch.from_numpy(rows[chosen]), names, skipped, chosen.tolist(), new)


def embedded(
    model: ImageText, pictures: Pictures, wanted: Sequence[int], workers: int
) -> Iterator[tuple[Sequence[int], np.ndarray, dict[int, Unusable]]]:
    """(numbers, rows of those that can be used, errors of the others by row) of one batch after the other."""
    images = [part.config.image for _, part in model.parts]
    dataset = PreparedPictures(pictures, [PixelFormat(1, image.image_size, image.interpolation) for image in images])
    batches = [wanted[i : i + BATCH] for i in range(0, len(wanted), BATCH)]
    loading = {"batch_sampler": batches, "collate_fn": dataset.collate}
    pin = model.device.type == "cuda"
    with (
        closing(prefetch(dataset, workers if len(batches) > 1 else 0, pin, **loading)) as loader,
        closing(progress_bar("embedding", len(wanted), "pictures")) as bar,
    ):
        for numbers, (pixels, errors) in zip(batches, loader, strict=True):
            found = np.empty((0, model.config.width), dtype=np.float32)
            if pixels:
                found = combined(model, pixels).numpy()
            bar.update(len(numbers))
            yield numbers, found, errors


def combined(model: ImageText, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
    """[n, D] float32 unit rows of images, given as the pixels [n, 3, S, S] that each of the model's parts reads."""
    total: Any = sum(
        weight * part.encode_image(pixel) for (weight, part), pixel in zip(model.parts, pixels, strict=True)
    )
    return torch.nn.functional.normalize(total, dim=1) if len(model.parts) > 1 else total


def embed_images(
    model: ImageText, shards: Shards, workers: int = 0, bad: dict[int, str] | None = None
) -> torch.Tensor:
    """Embed every image of some shards, in order and without augmentation.

    Args:
        model: the students.
        shards: the shards.
        workers: number of loader processes.
        bad: if it is given, images that cannot be used are entered here, with the reason, by their number, and their
            rows mean nothing.

    Returns:
        [n, D] float32 unit rows.

    Raises:
        UserError: without ``bad``, at the first image that cannot be used.
    """
    images = [part.config.image for _, part in model.parts]
    formats = [PixelFormat(1, image.image_size, image.interpolation) for image in images]
    samples = [range(i, min(i + BATCH, len(shards))) for i in range(0, len(shards), BATCH)]
    rows = []
    dataset = ViewPixels(shards, PLAIN_VIEWS, formats)
    with closing(dataset.batches(samples, workers, strict=bad is None)) as loaded:
        for numbers, (pixels, errors) in zip(samples, loaded, strict=True):
            rows.append(combined(model, [views[:, 0] for views in pixels]))
            for row, error in errors.items():
                assert bad is not None and isinstance(error, BadSample)
                bad[numbers[row]] = error.bad.reason
    return torch.cat(rows)


def embed_texts(model: ImageText, file: Path) -> Embedded:
    """Embed the lines of a UTF-8 file: row i is line i, also of an empty line.

    Raises:
        UserError: if the file is not UTF-8 or holds no text.
    """
    lines = list(lines_of(file))
    if not any(line.strip() for line in lines):
        raise UserError(f"{file} holds no text.", "Write one text per line.")
    return Embedded(model.encode_text(lines), lines)
