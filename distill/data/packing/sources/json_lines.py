"""JSON Lines: an object with a picture and its captions a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.packing.json_text import kind, object_rows, unique_keys
from distill.data.packing.row import Row
from distill.data.packing.source import Source
from distill.data.packing.text_file import is_text, open_text


class JsonLines(Source):
    """An object a line; blank lines are skipped."""

    rank = 50
    noun = "a table of JSON Lines"
    takes = ("root", "image", "captions", "keep")
    remedy = "Paths are relative to the table's folder, or to --root."

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return kind(path) == "lines"

    def rows(self) -> Iterator[Row]:
        return object_rows(self.path, read_lines(self.path), self.options.root or self.path.parent, self.options)


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of every line; a ``ValueError`` in place of what is not JSON."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", parsed(line)


def parsed(line: str) -> Any:
    """A line's value, or the ``ValueError`` that says why it has none."""
    if not is_text(line):
        return ValueError("it is not UTF-8")
    try:
        return json.loads(line, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        return ValueError(f"it is not JSON: {error}")
    except RecursionError:
        return ValueError("it is nested too deeply")
    except ValueError as error:
        return error


SOURCE = JsonLines
