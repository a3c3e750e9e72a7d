"""The identity of a teacher cache: teacher, preprocessing, views and outputs, as JSON values to be compared."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import teachers
from distill.augment_table import NO_AUGMENT
from distill.config import TeacherTable
from distill.data.views import Views
from distill.errors import UserError, as_user_errors
from distill.files import digest

if TYPE_CHECKING:
    from teachers import Card


def identity(table: TeacherTable, card: Card, views: Views, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Everything that cached outputs depend on, except the weights and the image.

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
    if card.file is not None and (table.weights or card.name.startswith("local/")):
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
