"""Search pictures by a text or by another picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill.data.picture_lists import beside
from distill.errors import UserError
from distill.ship import embedding_files
from distill.ship.embed import embed_pictures
from distill.ship.image_text import ImageText
from distill.ship.picture_index import PictureIndex
from distill.ship.pictures import Pictures, find_pictures

DIGITS = 16  # of a model's hash in the name of its index


class Answer(NamedTuple):
    """A picture that was found.

    Attributes:
        number: of its row in the collection.
        name: its path or key.
        similarity: cosine, from -1 to 1.
    """

    number: int
    name: str
    similarity: float


class Collection:
    """The embeddings of a collection of pictures.

    Args:
        model: the students.
        spec: see :func:`~distill.ship.pictures.find_pictures`; or a file that ``distill embed`` wrote.
        workers: number of loader processes.
        keep: whether embeddings are kept in a folder beside the collection, so that only new pictures are embedded.

    Attributes:
        rows: [n, D] float32 unit rows.
        names: of the rows.
        skipped: (name, reason) of pictures that cannot be used.
        new: how many rows were computed now.

    Raises:
        UserError: if there are no pictures, or a file's embeddings have another width than the model's.
    """

    def __init__(self, model: ImageText, spec: str, workers: int = 0, keep: bool = True) -> None:
        self.skipped, self.new, self._pictures = list[tuple[str, str]](), 0, Pictures()
        path = Path(spec).expanduser()
        if path.suffix in embedding_files.FORMATS:
            self.rows, self.names = embedding_files.read(path)
            if self.rows.shape[1] != model.config.width:
                raise UserError(
                    f"{path} holds embeddings of width {self.rows.shape[1]}; those of the model have "
                    f"{model.config.width}.",
                    "Embed the pictures with this model.",
                )
            return
        self._pictures = find_pictures([spec])
        index = index_of(model, spec) if keep else None
        found = embed_pictures(model, self._pictures, workers=workers, index=index)
        self.rows, self.names, self.new, self._numbers = found.rows.numpy(), found.names, found.new, found.pictures
        self.skipped = found.skipped

    def best(self, query: np.ndarray, top: int) -> list[Answer]:
        """The pictures most similar to an embedding, best first.

        Args:
            query: [D], a unit row.
            top: how many.
        """
        similarities = self.rows @ query
        top = min(top, len(similarities))
        found = np.argpartition(-similarities, top - 1)[:top]
        found = found[np.argsort(-similarities[found], kind="stable")]
        return [Answer(i, self.names[i], float(similarities[i])) for i in found.tolist()]

    def picture(self, number: int) -> Any:
        """The picture of a row.

        Raises:
            UserError: if it cannot be read, or the collection is a file of embeddings.
        """
        if not self._pictures.names:
            raise UserError("A file of embeddings holds no pictures to draw.", "Name the pictures themselves.")
        return self._pictures.read(self._numbers[number])


def index_of(model: ImageText, spec: str) -> PictureIndex | None:
    """What is kept beside a collection for a model; None, with a line about it, if nothing can be written there."""
    identity, folder = model.identity(), beside(spec)
    try:
        folder.mkdir(exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        print(f"The embeddings are not kept: {folder}: {error.strerror}.", file=sys.stderr)
        return None
    return PictureIndex(folder / f"{identity[:DIGITS]}.safetensors", identity, model.config.width)
