"""Search pictures by a text."""

from __future__ import annotations

from pathlib import Path

import torch

from distill.errors import UserError
from distill.ship import embedding_files
from distill.ship.embed import Embedded, embed_pictures
from distill.ship.image_text import ImageText


def collection(model: ImageText, pictures: str) -> Embedded:
    """The embeddings of pictures.

    Args:
        model: the students.
        pictures: see :func:`~distill.ship.embed.embed_pictures`; or a file that ``distill embed`` wrote.

    Raises:
        UserError: if there are none, or the file's embeddings have another width than the model's.
    """
    path = Path(pictures)
    if path.suffix not in embedding_files.FORMATS:
        return embed_pictures(model, [pictures])
    rows, names = embedding_files.read(path)
    if rows.shape[1] != model.config.width:
        raise UserError(
            f"{path} holds embeddings of width {rows.shape[1]}; those of the model have {model.config.width}.",
            "Embed the pictures with this model.",
        )
    return Embedded(torch.from_numpy(rows), names)


def best(model: ImageText, found: Embedded, query: str, top: int) -> list[tuple[str, float]]:
    """The names of the pictures that are most similar to a text, best first, with their cosine similarities.

    Args:
        model: the students.
        found: the pictures.
        query: the text.
        top: how many.
    """
    similarities = found.rows @ model.encode_text(query)[0]
    values, numbers = similarities.topk(min(top, len(found.names)))
    return [(found.names[i], value) for i, value in zip(numbers.tolist(), values.tolist(), strict=True)]
