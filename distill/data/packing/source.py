"""What all kinds of sources have in common, and finding the kind of a given one."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from distill import plugins
from distill.data.packing.row import Row, caption_json
from distill.errors import UserError

SOURCES = ("distill.data.packing.sources", "SOURCE", "distill.sources")
TEMPLATE = "a photo of a {}"
KNOWN = (
    "a table (.csv, .tsv, .jsonl, .json, .parquet), COCO captions, a folder of pictures with captions beside them or "
    "with metadata.csv, a folder with one folder a class, or .tar shards"
)


@dataclass(frozen=True)
class Options:
    """How a source is read; each kind takes some of these.

    Attributes:
        root: the folder that paths in a table are relative to; None: the table's own folder.
        image: the column of pictures; "" takes a usual name.
        captions: the columns of captions; empty takes usual names.
        template: the caption of a class, with {} for its name; "" is ``TEMPLATE``, with "an" where it has to be.
        separator: of a table's columns; "" recognises it.
        keep: further columns of a table, which become entries of the sample's JSON, besides those of classes.
    """

    root: Path | None = None
    image: str = ""
    captions: tuple[str, ...] = ()
    template: str = ""
    separator: str = ""
    keep: tuple[str, ...] = ()

    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


class Source(ABC):
    """What is packed.

    Attributes:
        rank: kinds with lower numbers are asked first whether a source is theirs.
        noun: what to call it in messages, such as "a table".
        takes: the names of the :class:`Options` that it reads.
        remedy: what to do if nothing of it can be packed, as a sentence.

    Args:
        path: of the file or folder.
        options: how it is read.
    """

    rank: ClassVar[int]
    noun: ClassVar[str]
    takes: ClassVar[tuple[str, ...]]
    remedy: ClassVar[str] = "Repair it."

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.options = path, options

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file or folder is of this kind."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """All rows in the source's order, those with a problem among them.

        Raises:
            UserError: if the source as a whole cannot be read.
        """

    def stamp(self, row: Row) -> str:
        """Something that changes if a row's picture does."""
        try:
            stat = Path(row.path).stat()
        except (OSError, ValueError):
            return "none"
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def image(self, row: Row) -> bytes:
        """A row's picture, as its file has it, unless the row was given with its ``data``.

        Raises:
            OSError, ValueError: if it cannot be read.
        """
        return Path(row.path).read_bytes()

    def close(self) -> None:  # noqa: B027
        """Close all files."""

    def sample(self, rows: list[Row], data: bytes, extension: str) -> dict[str, Any]:
        """The WebDataset sample of one picture.

        Args:
            rows: of the picture, in their order; see :func:`make_sample`.
            data: the picture's file.
            extension: of its member.
        """
        return make_sample(rows, data, extension)


@cache
def kinds() -> tuple[type[Source], ...]:
    """All kinds of sources, in the order in which they are asked."""
    found = [plugins.load("source", name, *SOURCES, plugins.is_subclass(Source)) for name in plugins.found(*SOURCES)]
    return tuple(sorted(found, key=lambda kind: kind.rank))


def open_source(path: Path, options: Options) -> Source:
    """The source at a path, of the kind that recognises it.

    Args:
        path: of a file or folder; for shards also a pattern.

    Raises:
        UserError: if no kind does, or does not take one of the options.
    """
    found = next((kind for kind in kinds() if kind.recognises(path)), None)
    if found is None:
        missing = not path.exists()
        raise UserError(
            f"{path} does not exist." if missing else f"{path} is nothing that can be packed.", f"Give {KNOWN}."
        )
    for name in options.given():
        if name not in found.takes:
            option = "caption" if name == "captions" else name
            raise UserError(
                f"{path} was recognised as {found.noun}, for which there is no --{option}.", "Leave it out."
            )
    return found(path, options)


def make_sample(rows: list[Row], data: bytes, extension: str) -> dict[str, Any]:
    """One picture's rows as a WebDataset sample.

    Args:
        rows: in their order; the first one's number is the key, unless it has a key.
        data: the picture's file.
        extension: of its member.
    """
    captions = [caption for row in rows for caption in row.captions]
    about: dict[str, Any] = {}
    for row in reversed(rows):  # where two rows say different things, the first one counts
        about |= row.about
    about = {"captions": [caption_json(c) for c in captions], "file": rows[0].name} | about
    sample = {"__key__": rows[0].key or f"{rows[0].number - 1:09d}", extension: data, "json": about}
    return sample | ({"txt": captions[0].text} if captions else {})


def say(text: str) -> None:
    """Print a line for the user, on standard error: standard output has the shards' names only."""
    print(text, file=sys.stderr, flush=True)


def listed(names: list[str], most: int = 10) -> str:
    """Names in quotation marks, the first ``most`` of them."""
    return ", ".join(f"'{name}'" for name in names[:most]) + (", …" if len(names) > most else "")
