"""Text with a line a record and separators between fields: finding the separator, and reading it record by record."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from distill.data.images import is_image_name
from distill.data.packing.columns import CAPTION_COLUMNS, IMAGE_COLUMNS, match
from distill.data.packing.source import Options
from distill.data.packing.text_file import is_text
from distill.errors import UserError

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}
STRAY_QUOTE = "a quotation mark opens a field and is not closed in this row"


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        line: the number of its first line, from 1.
        fields: as written, quotation marks resolved.
        problem: why it cannot be read, or "".
    """

    line: int
    fields: tuple[str, ...]
    problem: str = ""


class Lines:
    """The lines of a file, some of which can be given back.

    Attributes:
        taken: the lines taken since :meth:`begin`.
        number: of the first of these, from 1.
    """

    def __init__(self, file: Iterator[str]) -> None:
        self.file, self.waiting = file, deque[str]()
        self.taken: list[str] = []
        self.number = 1

    def begin(self) -> None:
        """Forget the lines that were taken."""
        self.number += len(self.taken)
        self.taken = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else next(self.file)
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """Give all taken lines but the first back."""
        self.waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes:
        separator: of fields.
        quoted: whether fields can be enclosed in quotation marks, as in CSV. Between tabs they are text, unless the
            names of all columns are enclosed in them.
    """

    separator: str
    quoted: bool

    def fields(self, lines: Lines) -> list[str]:
        """The fields of the next record.

        Raises:
            csv.Error: if it is malformed.
            StopIteration: after the last.
        """
        if not self.quoted:
            return next(lines).removesuffix("\n").removesuffix("\r").split(self.separator)
        # A new reader for each record: one that has met an error goes on in the middle of it.
        skip = self.separator != " "  # so that a quotation mark behind ", " opens a field
        return next(csv.reader(lines, delimiter=self.separator, strict=True, skipinitialspace=skip))


def read_records(lines: Lines, dialect: Dialect, swallows: Callable[[Sequence[str]], bool]) -> Iterator[Record]:
    """All records but blank lines.

    Of a malformed one only the first line is given up: a quotation mark that is not closed would otherwise take the
    rows behind it along.

    Args:
        lines: of the file.
        dialect: how they are written.
        swallows: from the lines of a record behind its first one, whether these are records themselves, so that a
            quotation mark was not meant to open a field.
    """
    while True:
        lines.begin()
        try:
            fields, problem = dialect.fields(lines), ""
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], STRAY_QUOTE if len(lines.taken) > 1 else f"it is malformed: {error}"
        if not problem and len(lines.taken) > 1 and swallows(lines.taken[1:]):
            problem = STRAY_QUOTE
        if problem:
            lines.give_back()
        text = "".join(lines.taken)
        if not text.strip() and dialect.separator not in text:
            continue
        if not is_text(text):
            problem = "it is not UTF-8"
        yield Record(lines.number, tuple(fields), problem)


def swallowed(image: int, columns: int, separator: str) -> Callable[[Sequence[str]], bool]:
    """A function for :func:`read_records`: whether one of the lines is a row of its own, with a picture in its place.

    Args:
        image: number of the column of pictures.
        columns: how many there are.
    """

    def swallows(lines: Sequence[str]) -> bool:
        rows = [line.split(separator) for line in lines]
        return any(len(row) >= columns and is_image_name(row[image].strip(' "\r\n')) for row in rows)

    return swallows


def open_lines(path: Path, file: TextIO, reopen: Callable[[], TextIO]) -> Lines:
    """The lines of an open table from its header on.

    Lines end with ``\\n`` or ``\\r\\n``, in a file without any ``\\n`` with ``\\r``. A ``\\r`` within a line is data.

    Args:
        reopen: opens the file so that ``\\r`` ends a line.

    Raises:
        UserError: if there is no header.
    """
    first = file.readline(1 << 20)
    if "\r" in first.rstrip("\r\n") and (not first.endswith("\n") or first.count("\r") > 1):
        file = reopen()
        first = file.readline(1 << 20)
    if len(first) >= 1 << 20 or not is_text(first):
        raise UserError(f"The first line of {path} does not name columns.", "Give a table of text in UTF-8.")
    lines = Lines(file)
    lines.waiting.append(first)
    return lines


def read_header(path: Path, lines: Lines, options: Options) -> tuple[list[str], Dialect]:
    """The names of the columns, stripped, and how the table is written.

    Args:
        path: for messages.
        lines: from the first on; those up to the header are taken.
        options: may name the separator and columns.

    Raises:
        UserError: if there are no names, or more than one separator could be meant.
    """
    separator = options.separator
    header = next((line for line in lines if line.strip()), "").rstrip("\r\n")
    if header.lower().startswith("sep=") and len(header) == 5:  # written by Excel
        separator, header = separator or header[4], next(lines, "").rstrip("\r\n")
    if not header:
        raise UserError(f"{path} is empty.", "Give a table.")
    if not separator:
        separator = recognise(path, header, options)
    names = split_header(header, separator)
    return names, Dialect(separator, is_quoted(header, separator))


def is_quoted(header: str, separator: str) -> bool:
    """Whether quotation marks enclose fields in a table with this header."""
    return separator != "\t" or all(len(name) > 1 and name[0] == name[-1] == '"' for name in header.split("\t"))


def split_header(header: str, separator: str) -> list[str]:
    """The names in a header."""
    try:
        dialect = Dialect(separator, is_quoted(header, separator))
        return [name.strip() for name in dialect.fields(Lines(iter([header])))]
    except csv.Error:
        return [header]


def recognise(path: Path, header: str, options: Options) -> str:
    """The separator with which a header has the columns of pictures and captions.

    Raises:
        UserError: if more than one would do.
    """
    found = {separator: split_header(header, separator) for separator in SEPARATORS if separator in header}
    found = {separator: names for separator, names in found.items() if len(names) > 1}
    if not found:
        return ","
    images, captions = (options.image,) if options.image else IMAGE_COLUMNS, options.captions or CAPTION_COLUMNS
    known = {separator: bool(match(n, images)) + bool(match(n, captions)) for separator, n in found.items()}
    best = [separator for separator in found if known[separator] == max(known.values())]
    if len(best) > 1:
        names = " or ".join(SEPARATORS[separator] for separator in best)
        raise UserError(f"The separator of {path} could be {names}.", "Say which: --separator ','.")
    return best[0]
