"""Captions of COCO and Flickr in the splits of Karpathy: dataset_coco.json, dataset_flickr30k.json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.captions import captions_in
from distill.data.packing.json_text import kind, load, mentions
from distill.data.packing.row import Row, file_row
from distill.data.packing.source import Source
from distill.errors import UserError

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


class Karpathy(Source):
    """``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``; a row for each image, in the split it names."""

    rank = 40
    noun = "captions in Karpathy's format"
    takes = ("root",)
    remedy = "Give the folder of the pictures by --root."

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return kind(path) == "object" and mentions(path, b'"images"', b'"sentences"')

    def rows(self) -> Iterator[Row]:
        images = load(self.path).get("images")
        if not isinstance(images, list):
            raise UserError(f"{self.path} has no list of images.", "Give captions in Karpathy's format.")
        return (self.image_row(image, f"image {number}") for number, image in enumerate(images, 1))

    def image_row(self, image: Any, where: str) -> Row:
        """The row of an entry of ``images``."""
        if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
            return Row("", where=where, problem="it has no filename")
        name = os.path.join(str(image.get("filepath") or ""), image["filename"])
        row = file_row(name, self.options.root or self.path.parent, where=where)
        split = str(image.get("split") or "train")
        if split not in SPLITS:
            return row.with_problem(f"its split is not known: {split}")
        row = Row(row.name, row.path, where, problem=row.problem, split=SPLITS[split])
        sentences = image.get("sentences")
        try:
            return row.with_captions(
                caption
                for one in (sentences if isinstance(sentences, list) else [])
                for caption in captions_in(one.get("raw") if isinstance(one, dict) else one)
            )
        except (ValueError, RecursionError) as error:
            return row.with_problem(f"its sentences cannot be read: {error}")


SOURCE = Karpathy
