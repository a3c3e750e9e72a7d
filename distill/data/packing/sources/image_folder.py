"""Image folders as Hugging Face's ``datasets`` reads them: pictures with metadata.csv or metadata.jsonl."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distill.data.packing.folders import image_paths, split_of, subfolders
from distill.data.packing.row import Row
from distill.data.packing.source import Source
from distill.data.packing.sources.json_lines import JsonLines
from distill.data.packing.sources.parquet import Parquet
from distill.data.packing.sources.table import Table

METADATA: dict[str, type[Source]] = {
    "metadata.csv": Table,
    "metadata.jsonl": JsonLines,
    "metadata.parquet": Parquet,
}


class ImageFolder(Source):
    """The metadata lie in the folder, or in each of its folders train, validation and test, a split each."""

    rank = 20
    noun = "an image folder with metadata"
    takes = ("image", "captions", "separator", "keep")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_dir() and bool(tables(path))

    def rows(self) -> Iterator[Row]:
        named = set[str]()
        for split, table in tables(self.path):
            options = replace(self.options, root=table.parent)
            for row in METADATA[table.name](table, options).rows():
                named.add(os.path.realpath(row.path))
                yield self.in_split(row, split, table)
        for path in image_paths(self.path):
            if os.path.realpath(path) not in named:
                yield Row(str(path.relative_to(self.path)), str(path), problem="no row of the metadata names it")

    def in_split(self, row: Row, split: str, table: Path) -> Row:
        """A row of a table of metadata, with paths relative to the source.

        The split of one of the metadata of all splits is named by the first folder of the picture's path.
        """
        where = f"{table.relative_to(self.path)}, {row.where}"
        name = os.path.relpath(row.path, self.path) if row.path else row.name
        first, slash, _ = name.partition(os.sep)
        return replace(row, name=name, where=where, split=split or (split_of(first) if slash else ""))


def tables(folder: Path) -> list[tuple[str, Path]]:
    """(split, metadata file) of an image folder, split "" for metadata of all of it; empty if it is none."""
    parts = [("", folder), *((split_of(part.name), part) for part in subfolders(folder) if split_of(part.name))]
    found = [(split, path) for split, part in parts for name in METADATA if (path := part / name).is_file()]
    return [one for one in found if one[0] == found[0][0] or found[0][0]]


SOURCE = ImageFolder
