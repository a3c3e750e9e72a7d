"""Tables of text: a line with the columns' names, then a picture and its caption a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TextIO

from distill.data.images import is_image_name
from distill.data.packing.columns import Columns, check_unique
from distill.data.packing.delimited import Dialect, Record, open_lines, read_header, read_records, swallowed
from distill.data.packing.row import NUMBERED, Row
from distill.data.packing.source import Options, Source, say
from distill.data.packing.text_file import open_text
from distill.errors import UserError
from distill.wording import counted

NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


class Table(Source):
    """Text with separators: comma, semicolon or ``|`` with CSV's quotation marks, or tab without."""

    rank = 90
    noun = "a table"
    takes = ("root", "image", "captions", "separator", "keep")
    remedy = "Paths are relative to the table's folder, or to --root."

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        self.separator = NAMED.get(options.separator.lower(), options.separator)
        if len(self.separator) > 1 or self.separator in ('"', "\n", "\r"):
            raise UserError(f"'{options.separator}' is no separator.", "Give one character, or the word tab.")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file()

    def rows(self) -> Iterator[Row]:
        with ExitStack() as stack:

            def opened(newline: str) -> TextIO:
                return stack.enter_context(open_text(self.path, newline))

            lines = open_lines(self.path, opened("\n"), lambda: opened(""))
            options = Options(image=self.options.image, captions=self.options.captions, separator=self.separator)
            names, dialect = read_header(self.path, lines, options)
            self.check_header(names)
            # Only a row with all its fields says what its columns hold.
            image = 0
            records = read_records(
                lines, dialect, lambda taken: swallowed(image, len(names), dialect.separator)(taken)
            )
            first: list[Record] = []
            for record in records:
                first.append(record)
                if not record.problem and len(record.fields) == len(names) or len(first) == 1000:
                    break
            example = dict(zip(names, first[-1].fields if first else (), strict=False))
            columns = Columns.find(self.path, names, options, example)
            image = names.index(columns.image)
            yield from self.records_as_rows(chain(first, records), names, columns, dialect)

    def records_as_rows(
        self, records: Iterator[Record], names: list[str], columns: Columns, dialect: Dialect
    ) -> Iterator[Row]:
        """A row for every record."""
        root, enclosed = self.options.root or self.path.parent, 0
        for record in records:
            where, fields = f"line {record.line}", record.fields
            if record.problem:
                yield Row("", where=where, problem=record.problem)
            elif len(fields) != len(names):
                has = counted(len(fields), "field")
                yield Row("", where=where, problem=f"it has {has}, and the header {len(names)}")
            else:
                enclosed += not dialect.quoted and any(len(f) > 1 and f[0] == f[-1] == '"' for f in fields)
                yield columns.row(dict(zip(names, fields, strict=True)), root, where)
        if enclosed:
            say(
                f"{self.path}: in {counted(enclosed, 'row')} a field is enclosed in quotation marks, which are kept: "
                "between tabs they are text. If a program added them, save the table with commas."
            )

    def check_header(self, names: list[str]) -> None:
        """Raise a ``UserError`` if the first line does not name columns, or two by one name."""
        if any(is_image_name(NUMBERED.sub("", name)) for name in names):
            raise UserError(
                f"The first line of {self.path} names no columns but a picture.",
                "Add a line with the columns' names above it, such as image and caption.",
            )
        check_unique(self.path, names)


SOURCE = Table
