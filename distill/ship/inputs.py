"""What ``encode_image`` and ``encode_text`` accept, checked: pictures in any usual form, and texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.data import images
from distill.errors import UserError

FORMS = (
    "Give a path, the bytes of an image file, a PIL image, an array [height, width, 3] of uint8, or a list of these."
)


def picture(value: Any) -> Image.Image:
    """One picture as RGB: see :func:`distill.data.images.decode`.

    Args:
        value: a path, the bytes of an image file, a PIL image, or a uint8 array [height, width], [height, width, 3]
            or [height, width, 4].

    Raises:
        UserError: if it is something else or cannot be decoded.
    """
    for kind, convert in CONVERSIONS.items():
        if isinstance(value, kind):
            try:
                return convert(value)
            except OSError as error:
                raise UserError(f"The image {value} cannot be read: {error.strerror}.", "Correct the path.") from error
            except ValueError as error:
                name = f"The image {value}" if isinstance(value, str | Path) else "The image"
                raise UserError(f"{name} {error}.", "Remove or replace it.") from error
    raise UserError(f"A {type(value).__name__} is no image.", FORMS)


def from_array(array: np.ndarray) -> Image.Image:
    """An array as an RGB picture; raises ``ValueError`` if its type or shape is not one of an image."""
    if array.dtype != np.uint8:
        raise ValueError(f"has pixels of type {array.dtype}, where uint8 from 0 to 255 is read")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"has the shape {list(array.shape)}, where [height, width, 3] is read")
    return images.as_rgb(Image.fromarray(array))


CONVERSIONS: dict[type | tuple[type, ...], Any] = {
    (str, Path): lambda path: images.decode(Path(path).read_bytes()),
    (bytes, bytearray): lambda data: images.decode(bytes(data)),
    Image.Image: images.as_rgb,
    np.ndarray: from_array,
}


def pictures(value: Any) -> Iterator[Any]:
    """The single pictures of a picture or a group of them, not yet converted.

    Raises:
        UserError: if it is neither.
    """
    single = isinstance(value, (str, Path, bytes, bytearray, Image.Image))
    if single or (isinstance(value, np.ndarray) and value.ndim < 4):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, dict):
        yield from value
    else:
        raise UserError(f"A {type(value).__name__} is no image.", FORMS)


def pixels(value: torch.Tensor, side: int) -> torch.Tensor:
    """[n, 3, side, side] uint8 of a tensor that holds one image's pixels, or those of several.

    Raises:
        UserError: if its type or shape is another one.
    """
    if value.dtype != torch.uint8:
        raise UserError(
            f"The pixels are of type {str(value.dtype).removeprefix('torch.')}, where uint8 from 0 to 255 is read.",
            "Give the pixels as they are; the model normalises them itself.",
        )
    batch = value[None] if value.ndim == 3 else value
    if batch.ndim != 4 or tuple(batch.shape[1:]) != (3, side, side):
        raise UserError(
            f"The pixels have the shape {list(value.shape)}; the image tower reads [n, 3, {side}, {side}].",
            "Give PIL images or paths, which are resized, or pixels of that shape.",
        )
    return batch


def texts(value: str | Iterable[str]) -> list[str]:
    """The texts of a group; a string is one text.

    Raises:
        UserError: if it holds anything but strings.
    """
    if not isinstance(value, str | Iterable):
        raise UserError(f"A {type(value).__name__} is no text.", "Give a string or a list of strings.")
    found = [value] if isinstance(value, str) else list(value)
    wrong = next((one for one in found if not isinstance(one, str)), None)
    if any(not isinstance(one, str) for one in found):
        raise UserError(f"{wrong!r} is a {type(wrong).__name__}, no text.", "Give a string or a list of strings.")
    # An unpaired surrogate is not valid Unicode text: SentencePiece rejects it.
    return [text.encode("utf-8", "replace").decode() for text in found]


def groups(labels: str | Iterable[str | Iterable[str]]) -> list[list[str]]:
    """The captions of each class, from one caption a class or several.

    Raises:
        UserError: if there is no class, or one without a caption.
    """
    if not isinstance(labels, str | Iterable):
        raise UserError(
            f"A {type(labels).__name__} is no label.", "Give a list with one caption, or several, a class."
        )
    found = [texts(label) for label in ([labels] if isinstance(labels, str) else labels)]
    if not found:
        raise UserError("There are no labels to choose from.", "Give one caption, or several, for each class.")
    if empty := [number for number, group in enumerate(found) if not group]:
        raise UserError(f"Class {empty[0]} has no caption.", "Give each class at least one.")
    return found


def check_batch_size(batch_size: int) -> None:
    """Raise ``UserError`` if it is no positive number."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size must be a whole number from 1 on; got {batch_size!r}.", "Correct batch_size.")
