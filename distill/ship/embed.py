"""Embed collections: shards, folders of pictures, single pictures, lists of them, and files of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from distill.config import is_remote
from distill.data.cache_fill import PixelFormat, ViewPixels
from distill.data.images import image_files
from distill.data.shard_names import COMPRESSED_SUFFIXES, holds_shards, matching_paths
from distill.data.shards import Shards
from distill.data.views import PLAIN_VIEWS
from distill.errors import BadSample, UserError
from distill.ship import inputs
from distill.ship.image_text import ImageText

BATCH = 256
ANYTHING = "Name a folder of pictures, picture files, a .txt list of them, or shards."


@dataclass
class Embedded:
    """Embeddings of a collection.

    Attributes:
        rows: [n, D] float32 unit rows.
        names: of the n rows: paths, keys or texts.
        skipped: (name, reason) of what could not be embedded.
    """

    rows: torch.Tensor
    names: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)


def embed_pictures(model: ImageText, specs: Sequence[str], strict: bool = False) -> Embedded:
    """Embed the pictures of collections, in their order and without augmentation.

    Args:
        model: the students.
        specs: folders, picture files, ``.txt`` lists with a path a line, and shards; also with braces and wildcards.
        strict: raise at the first picture that cannot be used, instead of skipping it.

    Returns:
        Pictures of a folder are named by their path in it, those of a list and single ones by the path given, samples
        of shards by their key.

    Raises:
        UserError: if there is no such file, a folder holds both shards and pictures, or no picture can be used.
    """
    parts: list[Embedded] = []
    for spec in specs:
        if is_remote(spec):
            raise UserError(f"'{spec}' is a stream; pictures are embedded from files.", "Copy the shards first.")
        for path in matching_paths(spec):
            parts.append(embed_path(model, path, strict))
    skipped = [one for part in parts for one in part.skipped]
    names = [name for part in parts for name in part.names]
    if not names:
        why = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"There is no picture in {', '.join(specs)} that can be embedded{why}.", ANYTHING)
    return Embedded(torch.cat([part.rows for part in parts]), names, skipped)


def embed_path(model: ImageText, path: Path, strict: bool) -> Embedded:
    """Embed the pictures of one folder, file, list or shard; see :func:`embed_pictures`."""
    if path.is_dir():
        pictures = [(str(file.relative_to(path)), file) for file in image_files(path)]
        if not holds_shards(str(path)):
            return embed_files(model, pictures, strict)
        if pictures:
            raise UserError(
                f"{path} holds shards and pictures ({pictures[0][0]}).",
                "Name the shards, or a folder with the pictures alone.",
            )
        return embed_shards(model, Shards.open([str(path)], strict), strict)
    if not path.is_file():
        raise UserError(f"{path} does not exist.", ANYTHING)
    if path.suffix.lower() == ".txt":
        return embed_files(model, [(line, path.parent / line) for line in lines_of(path) if line.strip()], strict)
    if path.name.lower().endswith((".tar", *COMPRESSED_SUFFIXES)):
        return embed_shards(model, Shards.open([str(path)], strict), strict)
    return embed_files(model, [(str(path), path)], strict)


def embed_files(model: ImageText, files: Sequence[tuple[str, Path]], strict: bool) -> Embedded:
    """Embed picture files, given as (name, path)."""
    found = Embedded(torch.empty(0, model.config.width), [])
    rows, remaining = [found.rows], iter(files)
    while group := list(islice(remaining, BATCH)):
        images: list[Image.Image] = []
        for name, path in group:
            try:
                images.append(inputs.picture(path))
            except UserError as error:
                if strict:
                    raise
                found.skipped.append((name, reason_of(error)))
                continue
            found.names.append(name)
        rows.append(model.encode_image(images))
    found.rows = torch.cat(rows)
    return found


def reason_of(error: UserError) -> str:
    """Why a picture was skipped, from the error of reading it."""
    cause = error.__cause__
    return (getattr(cause, "strerror", None) or f"it {cause}") if cause is not None else str(error)


def embed_shards(model: ImageText, shards: Shards, strict: bool) -> Embedded:
    """Embed every image of some shards; see :func:`embed_pictures`."""
    bad: dict[int, str] = {}
    rows = embed_images(model, shards, bad=None if strict else bad)
    good = [i for i in range(len(shards)) if i not in bad]
    skipped = [(fault.shard, fault.reason) for fault in shards.faults]
    skipped += [(shards.key(i), reason) for i, reason in bad.items()]
    return Embedded(rows[good], [shards.key(i) for i in good], skipped)


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
    total = torch.zeros(())
    for weight, part in model.parts:
        size, interpolation = part.config.image.image_size, part.config.image.interpolation
        dataset = ViewPixels(shards, PLAIN_VIEWS, [PixelFormat(1, size, interpolation)])
        samples = [range(i, min(i + BATCH, len(shards))) for i in range(0, len(shards), BATCH)]
        rows = []
        with closing(dataset.batches(samples, workers, strict=bad is None)) as loaded:
            for numbers, ((pixels,), errors) in zip(samples, loaded, strict=True):
                rows.append(part.encode_image(pixels[:, 0]))
                for row, error in errors.items():
                    assert bad is not None and isinstance(error, BadSample)
                    bad[numbers[row]] = error.bad.reason
        total = total + weight * torch.cat(rows)
    return torch.nn.functional.normalize(total, dim=1) if len(model.parts) > 1 else total


def embed_texts(model: ImageText, file: Path) -> Embedded:
    """Embed the lines of a UTF-8 file: row i is line i, also of an empty line.

    Raises:
        UserError: if the file is not UTF-8 or holds no text.
    """
    lines = list(lines_of(file))
    if not any(line.strip() for line in lines):
        raise UserError(f"{file} holds no text.", "Write one text per line.")
    return Embedded(model.encode_text(lines), lines)


def lines_of(file: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, without a mark at its beginning. Only ``\n`` ends a line, or ``\r\n``.

    Raises:
        UserError: if it is not UTF-8.
    """
    with file.open("rb") as binary:
        for number, line in enumerate(binary, 1):
            try:
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"Line {number} of {file} is not UTF-8 text: {error.reason}.", "Convert the file to UTF-8."
                ) from error
            yield text
