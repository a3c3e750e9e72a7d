"""A layout of evaluation data: squares of four colours, drawn when they are read; no file is needed."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from distill.data.captions import Caption
from distill.data.sample import Sample
from distill.evals.dataset import Classes, Dataset
from distill.evals.layout import Layout

NAMES = ("red", "green", "blue", "black")


class Drawings(Layout):
    """``drawings:N`` are N squares for testing and as many for training."""

    rank = 1

    @classmethod
    def recognises(cls, specs: Sequence[str]) -> bool:
        return len(specs) == 1 and specs[0].startswith("drawings:")

    def splits(self) -> Sequence[str]:
        return ["train", "test"]

    def open(self, split: str) -> Dataset:
        count = int(self.specs[0].partition(":")[2])
        labels = np.arange(count) % len(NAMES)
        classes = Classes(labels, tuple((name,) for name in NAMES))
        captions = [[Caption(f"{NAMES[k]} number {i}")] for i, k in enumerate(labels)]
        return Dataset(
            f"{self.specs[0]}, {split}", Squares(labels), f"{split} {count}", captions.__getitem__, lambda: classes
        )


class Squares:
    """One square a label."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, i: int) -> str:
        return str(i)

    def read(self, i: int, kinds: Sequence[str] = ()) -> Sample:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), NAMES[self.labels[i]]).save(buffer, "PNG")
        return Sample(str(i), "drawings", buffer.getvalue(), None, None)
