"""Parquet: tables with paths, or with the pictures themselves, as Hugging Face's ``datasets`` writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.packing.columns import Columns, check_unique
from distill.data.packing.folders import has_images, split_of
from distill.data.packing.row import Row
from distill.data.packing.source import Source
from distill.data.packing.text_file import head
from distill.errors import UserError

MAGIC = b"PAR1"
ROWS = 64  # read at a time: with their pictures they have to fit into memory


class Parquet(Source):
    """One file, or a folder of them; of files called ``train-….parquet``, ``test-….parquet`` each makes a split.

    A picture is a path, the file's bytes, or ``{"bytes": …, "path": …}``. Pictures in the table are copied to the disk
    of the shards while packing; those with equal bytes are one picture.
    """

    rank = 15
    noun = "a Parquet table"
    takes = ("root", "image", "captions", "keep")
    remedy = "Paths are relative to the table's folder, or to --root."

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return head(path).startswith(MAGIC) if path.is_file() else path.is_dir() and bool(tables(path))

    def rows(self) -> Iterator[Row]:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise UserError(
                f"{self.path} is Parquet, which is read with pyarrow.", "pip install 'distill[parquet]'."
            ) from error
        several = self.path.is_dir()
        for path in tables(self.path) if several else [self.path]:
            try:
                with parquet.ParquetFile(path) as file:
                    place = f" of {path.relative_to(self.path)}" if several else ""
                    split = split_of(path.name.split("-")[0]) or split_of(path.parent.name) if several else ""
                    yield from self.file_rows(path, file, place, split)
            except (OSError, ValueError) as error:  # pyarrow's own exceptions are of these
                raise UserError(f"{path} cannot be read: {error}.", "Write it again.") from error

    def file_rows(self, path: Path, file: Any, place: str, split: str) -> Iterator[Row]:
        """The rows of one file.

        Args:
            file: opened by pyarrow.
            place: what to add to a row's number to say where it is.
            split: of all rows.
        """
        names = file.schema_arrow.names
        check_unique(path, names)
        example: dict[str, Any] = next((row for batch in file.iter_batches(1) for row in batch.to_pylist()), {})
        columns = Columns.find(path, names, self.options, example)
        read = [name for name in (columns.image, *(name for name, _ in columns.captions), columns.language) if name]
        number = 0
        for batch in file.iter_batches(ROWS, columns=read):
            for entry in batch.to_pylist():
                number += 1
                yield self.entry_row(entry, columns, f"row {number}{place}", split)

    def entry_row(self, entry: dict[str, Any], columns: Columns, where: str, split: str) -> Row:
        """The row of an entry of the table."""
        value = entry[columns.image]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            return columns.row(entry, self.options.root or self.path_folder(), where, split=split)
        name = f"{hashlib.sha256(data).hexdigest()[:32]}"
        path = value.get("path") if isinstance(value, dict) else None
        about = {"file": Path(path).name} if isinstance(path, str) else {}
        return columns.with_captions(Row(name, where=where, about=about, split=split, data=data), entry)

    def path_folder(self) -> Path:
        """The folder that paths are relative to."""
        return self.path if self.path.is_dir() else self.path.parent

    def stamp(self, row: Row) -> str:
        return "" if row.data is not None else super().stamp(row)


def tables(folder: Path) -> list[Path]:
    """The Parquet files in a folder, or below it in one of Hugging Face's layouts: ``data/…``, ``default/train/…``."""
    found = sorted(folder.glob("*.parquet"))
    if not found and not has_images(folder):
        found = sorted([*folder.glob("*/*.parquet"), *folder.glob("*/*/*.parquet")])
    return [path for path in found if path.name != "metadata.parquet"]  # that of an image folder


SOURCE = Parquet
