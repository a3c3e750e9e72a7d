"""Embeddings of pictures that are kept, so that only pictures that are new or have changed are embedded."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from distill.files import write_whole
from distill.ship.pictures import Pictures


class PictureIndex:
    """The embeddings of some pictures by one model, in a file.

    The file is one of safetensors, like those that ``distill embed`` writes: a tensor "embeddings" and in the metadata
    "names", "states" (see :class:`Pictures`) and "model", a hash of the model.

    Args:
        path: of the file. One that is missing, damaged, or of another model counts as empty.
        model: the model's :meth:`~distill.ship.image_text.ImageText.identity`.
        width: of the embeddings.

    Attributes:
        rows: [n, D] float32.
        numbers: the number of each picture's row, by its name and state.
    """

    def __init__(self, path: Path, model: str, width: int) -> None:
        from safetensors import SafetensorError, safe_open

        self.path, self.model = path, model
        self.rows, self.numbers = np.empty((0, width), dtype=np.float32), dict[tuple[str, str], int]()
        with suppress(OSError, SafetensorError, KeyError, ValueError), safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            names, states, rows = (
                json.loads(about["names"]),
                json.loads(about["states"]),
                file.get_tensor("embeddings"),
            )
            if about["model"] == model and rows.shape == (len(names), width) and len(states) == len(names):
                self.rows = rows
                self.numbers = {pair: k for k, pair in enumerate(zip(names, states, strict=True))}

    def find(self, pictures: Pictures) -> np.ndarray:
        """[n] int64: the number of each picture's row here; −1 of pictures that are new or have changed."""
        pairs = zip(pictures.names, pictures.states, strict=True)
        return np.array([self.numbers.get(pair, -1) for pair in pairs], dtype=np.int64)

    def write(self, names: list[str], states: list[str], rows: np.ndarray) -> None:
        """Replace what the file holds.

        Raises:
            OSError: if it cannot be written.
        """
        from safetensors.numpy import save_file

        about = {
            "names": json.dumps(names, ensure_ascii=False),
            "states": json.dumps(states, ensure_ascii=False),
            "model": self.model,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"embeddings": np.ascontiguousarray(rows, dtype=np.float32)}
        write_whole(self.path, lambda to: save_file(tensors, to, metadata=about))
