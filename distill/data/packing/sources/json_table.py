"""Tables in one JSON value: a list of objects, a list a column, or captions by the pictures' names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.images import is_image_name
from distill.data.packing.columns import IMAGE_COLUMNS, match
from distill.data.packing.json_text import kind, load, object_rows
from distill.data.packing.row import Row
from distill.data.packing.source import Source
from distill.errors import UserError


class JsonTable(Source):
    """``[{"image": …, "caption": …}, …]``, ``{"image": […], "caption": […]}``, or ``{"img/1.jpg": "caption", …}``."""

    rank = 60
    noun = "a table in JSON"
    takes = ("root", "image", "captions", "keep")
    remedy = "Paths are relative to the table's folder, or to --root."

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return kind(path) in ("list", "object")

    def rows(self) -> Iterator[Row]:
        entries = ((f"entry {number}", entry) for number, entry in enumerate(self.entries(load(self.path)), 1))
        return object_rows(self.path, entries, self.options.root or self.path.parent, self.options)

    def entries(self, value: Any) -> list[Any]:
        """The objects that a value stands for.

        Raises:
            UserError: if it is nothing of the kind.
        """
        if isinstance(value, list):
            return value
        if len(value) == 1 and isinstance(only := next(iter(value.values())), list):
            if all(isinstance(entry, dict) for entry in only):  # {"data": [{…}, …]}
                return only
        columns = [list(part.values()) if isinstance(part, dict) else part for part in value.values()]
        if match(value, (self.options.image,) if self.options.image else IMAGE_COLUMNS):
            if all(isinstance(part, list) and len(part) == len(columns[0]) for part in columns):
                return [dict(zip(value, entry, strict=True)) for entry in zip(*columns, strict=True)]
            if all(not isinstance(part, list | dict) for part in value.values()):
                return [value]
        elif any(is_image_name(name) for name in value):
            return [
                {"image": name}
                | (part if isinstance(part, dict) and match(part, ("caption", "captions")) else {"captions": part})
                for name, part in value.items()
            ]
        raise UserError(
            f"{self.path} is JSON, but no table of pictures.",
            'Write a list of objects: [{"image": "img/1.jpg", "caption": "…"}, …].',
        )


SOURCE = JsonTable
