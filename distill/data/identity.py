"""What a teacher cache is of, in words that can be compared."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import TeacherTable
from distill.data.views import Views
from distill.errors import UserError
from distill.files import digest

if TYPE_CHECKING:
    from teachers import Card


def identity(table: TeacherTable, card: Card, views: Views, logits: bool) -> dict[str, Any]:
    """Everything a cached embedding depends on besides the weights and the image."""
    optional = {"output": "logits"} if logits else {}
    if card.file is not None and (table.weights or card.name.startswith("local/")):
        optional |= {"file": file_digest(str(card.file()))}
        if not optional["file"].startswith(table.sha256.lower()):
            raise UserError(
                f"{table.weights} has the SHA-256 {optional['file']}, where {table.sha256} is expected.",
                "It is another file, or damaged: fetch it again, or correct teacher.N.sha256.",
            )
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
        "width": card.classes if logits else card.width,
    }


@functools.cache
def file_digest(path: str) -> str:
    """SHA-256 of a file of weights.

    Raises:
        UserError: if it is not there.
    """
    try:
        return digest(Path(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Correct teacher.N.weights.") from error
