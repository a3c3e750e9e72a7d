"""The identity of a teacher cache: teacher, preprocessing, rows and outputs, as JSON values to be compared."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import teachers
from distill.augment_table import NO_AUGMENT
from distill.config import TeacherTable
from distill.data.captions import Captions
from distill.data.views import Views
from distill.errors import UserError, as_user_errors
from distill.files import digest

if TYPE_CHECKING:
    from teachers import Card


def identity_of_views(
    table: TeacherTable, card: Card, views: Views, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Everything that cached outputs of images depend on, except the weights and the image.

    Args:
        table: the recipe's ``[[teacher]]`` table.
        card: the teacher's card.
        views: how views are drawn.
        shapes: the shapes of one sample's outputs, by name.

    Raises:
        UserError: if the file of the weights is missing, or is not the one with the recipe's SHA-256.
    """
    widths = [shape[0] if len(shape) == 1 else list(shape) for shape in shapes.values()]
    # No key for a sole embedding, so that caches from before there were other outputs stay valid.
    optional: dict[str, Any] = {} if [*shapes] == ["embedding"] else {"output": "+".join(shapes)}
    if card.library:
        with as_user_errors():
            optional |= {"files": file_digests(card)}
    elif card.file is not None and (table.weights or card.name.startswith("local/")):
        optional |= {"file": file_digest(str(card.file()))}
        if not optional["file"].startswith(table.sha256.lower()):
            raise UserError(
                f"{table.weights} has the SHA-256 {optional['file']}, where {table.sha256} is expected.",
                "It is another file, or damaged: download it again, or correct teacher.N.sha256.",
            )
    if table.views > 1 and views.crop != (1.0, 1.0) and views.rule > 1:
        optional |= {"views_rule": views.rule}  # no key for the rule of version 0.1.0
    if table.views > 1 and views.augment != NO_AUGMENT:
        optional |= {"augment": views.augment.model_dump(mode="json", exclude_defaults=True)}
    if card.options:
        optional |= {"options": json.dumps(dict(card.options), sort_keys=True)}
    return optional | {
        "version": 4,
        "teacher": card.name,
        "arch": card.arch,
        "image_size": table.image_size or card.image_size,
        "mean": list(card.mean),
        "std": list(card.std),
        "interpolation": card.interpolation,
        "views": table.views,
        "crop": list(views.crop) if table.views > 1 else None,
        "flip": views.flip if table.views > 1 else None,
        "dtype": table.dtype,
        "width": widths[0] if len(widths) == 1 else widths,
    }


def identity_of_captions(
    table: TeacherTable, card: Card, captions: Captions, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Everything that cached outputs of captions depend on, except the weights and the caption.

    That is the list of a sample's captions, too, in which each has its number.

    Args:
        table: the recipe's ``[[teacher]]`` table.
        card: the teacher's card.
        captions: how captions are read.
        shapes: the shapes of one caption's outputs, by name.

    Raises:
        UserError: if a file of the teacher, such as that of its tokenizer, is missing.
    """
    with as_user_errors():
        files = file_digests(card)
    return {
        "version": 1,
        "rows": "captions",
        "teacher": card.name,
        "arch": card.arch,
        "files": files,
        "context": card.context,
        "caption_keys": list(captions.keys),
        "languages": list(captions.languages),
        "dtype": table.dtype,
        "outputs": {name: list(shape) for name, shape in shapes.items()},
    }


def file_digests(card: Card) -> dict[str, str]:
    """By their paths in a teacher's folder, the SHA-256 of the files on which its outputs depend.

    Raises:
        ImportError, ValueError: if there is no such folder, or a file is missing.
        UserError: if a file cannot be read.
    """
    assert card.file is not None, f"the card '{card.name}' has no folder"
    folder = card.file()
    return {path.relative_to(folder).as_posix(): file_digest(str(path)) for path in teachers.files(card)}


@functools.cache
def file_digest(path: str) -> str:
    """SHA-256 of a file of weights, in hexadecimal.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return digest(Path(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Correct teacher.N.weights.") from error


def output_shape(card: Card, image_size: int, output: str) -> tuple[int, ...]:
    """The shape of a teacher's output for one sample: (P,), (C,) or (T, W).

    Raises:
        UserError: if the output is "tokens" and the teacher has none.
    """
    if output == "tokens":
        with as_user_errors():
            return teachers.token_shape(card, image_size)
    return ({"embedding": card.width, "logits": card.classes}[output],)
