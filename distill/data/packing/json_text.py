"""JSON as people have it: one value in a file, or one a line; which of these a file is; the rows of its objects."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distill.data.packing.columns import Columns
from distill.data.packing.row import Row
from distill.data.packing.source import Options
from distill.data.packing.text_file import UTF_16, head, is_text, open_text
from distill.errors import UserError

LINES = (".jsonl", ".ndjson", ".jsonlines")
PEEK = 1000  # objects in which columns are looked for: they need not all have the same


def kind(path: Path) -> str:
    """ "lines" for an object a line, "list" or "object" for one value, "" for anything else."""
    if not path.is_file():
        return ""
    start = head(path)
    try:
        text = start.decode("utf-16" if start.startswith(UTF_16) else "utf-8-sig", "replace").lstrip()
    except UnicodeError:
        return ""
    if path.suffix.lower() in LINES:
        return "lines"
    if not text.startswith(("[", "{")):
        return ""
    line, end, rest = text.partition("\n")
    if text[0] == "{" and end and (rest.strip() or path.suffix.lower() != ".json"):
        try:
            return "lines" if isinstance(json.loads(line), dict) else "object"
        except (ValueError, RecursionError):
            pass
    return "list" if text[0] == "[" else "object"


def mentions(path: Path, *words: bytes) -> bool:
    """Whether a file contains all of these words somewhere."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(word) >= 0 for word in words)
    except (OSError, ValueError):  # the latter for an empty file
        return False


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for ``object_pairs_hook``.

    Raises:
        ValueError: if a key occurs twice, of which json would drop the first.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"it has '{twice}' twice")
    return found


def load(path: Path) -> Any:
    """The one value in a file.

    Raises:
        UserError: if it is not JSON.
    """
    try:
        with open_text(path) as file:
            text = file.read()
        if not is_text(text):
            raise ValueError("it is not UTF-8")
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.", "Repair it; it must be JSON in UTF-8.") from error


def object_rows(
    table: Path, entries: Iterable[tuple[str, Any]], root: Path, options: Options, split: str = ""
) -> Iterator[Row]:
    """A row for every object of a table.

    Args:
        table: for messages.
        entries: of each its place, and what is there: an object, or a ``ValueError`` that says why it is none.
        root: the folder that paths are relative to.
        options: may name columns.
        split: of all rows.
    """
    remaining = iter(entries)
    first = list(islice(remaining, PEEK))
    objects = [entry for _, entry in first if isinstance(entry, dict)]
    if not objects:
        yield from (Row("", where=where, problem="it is no object with columns") for where, _ in first)
        return
    example: dict[str, Any] = {}
    for entry in reversed(objects):
        example = entry | {name: value for name, value in example.items() if entry.get(name) is None}
    names = list(dict.fromkeys(name for entry in objects for name in entry))
    columns = Columns.find(table, names, options, example)
    for where, entry in chain(first, remaining):
        if isinstance(entry, dict):
            yield columns.row(entry, root, where, split=split)
        else:
            problem = str(entry) if isinstance(entry, ValueError) else "it is no object with columns"
            yield Row("", where=where, problem=problem, split=split)
