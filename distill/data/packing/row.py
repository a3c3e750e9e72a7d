"""A row of a source: one picture with one or several captions, or what could not be understood."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from distill.data.captions import Caption

ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+)://")
NUMBERED = re.compile(r"#\d+$")  # behind the names in Flickr's tables: 1000092795.jpg#0
NO_CAPTION = "there is no caption"


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        name: what the source calls the picture, such as its path relative to the source's folder. Rows of one name
            and one split are one sample.
        path: the picture's file; "" where the source itself holds the picture.
        where: the row's place in the source, such as "line 12"; "" where the name says it.
        captions: in their order, stripped, none of them empty.
        about: further entries of the sample's JSON.
        problem: why the row cannot be used, as part of a sentence; "" if it can.
        split: "train", "val" or "test" if the source says so, otherwise "".
        key: of the sample, if the source has one.
        number: position in the source, from 1; set when all rows are read.
        data: the picture's file, where it has to be kept until it is written.
        place: where the source finds the picture again, if it has no path.
        kept: where ``Samples`` keeps ``data``.
    """

    name: str
    path: str = ""
    where: str = ""
    captions: tuple[Caption, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    split: str = ""
    key: str = ""
    number: int = 0
    data: bytes | None = None
    place: int = -1
    kept: int = -1

    def with_captions(self, captions: Iterable[Caption]) -> Row:
        """The row with captions; empty ones are none."""
        return replace(self, captions=tuple(caption for caption in captions if caption.text))

    def with_problem(self, problem: str) -> Row:
        """The row as one that cannot be used."""
        return replace(self, problem=problem)

    def content(self) -> bytes:
        """All but ``path`` and ``data``, as JSON."""
        captions = [[caption.text, caption.language] for caption in self.captions]
        rest = (self.name, self.where, self.problem, self.split, self.key, self.number, self.place, self.kept)
        return json.dumps([captions, self.about, rest]).encode()

    def record(self) -> bytes:
        """All but ``data``."""
        return os.fsencode(self.path) + b"\0" + self.content()

    @classmethod
    def from_record(cls, record: bytes) -> Row:
        path, _, content = record.partition(b"\0")
        captions, about, rest = json.loads(content)
        name, where, problem, split, key, number, place, kept = rest
        own = tuple(Caption(*caption) for caption in captions)
        return cls(name, os.fsdecode(path), where, own, about, problem, split, key, number, None, place, kept)


def file_row(name: str, root: Path, **fields: Any) -> Row:
    """The row of a picture that is named in a table or an annotation file; see :class:`Row` for ``fields``.

    Args:
        name: as written there: relative to ``root``, absolute, or a ``file://`` address. A path with backslashes, as
            written on Windows, is one with slashes if there is no file of that very name.
        root: a folder.
    """
    name = name.strip()
    address = ADDRESS.match(name)
    if address and address[1].lower() == "file":
        name, address = url2pathname(re.sub(r"(?i)^file://(localhost)?", "", name)), None
    if not name:
        return Row("", **{"problem": "it names no picture"} | fields)
    if address:
        return Row(name, **{"problem": "its picture is a web address; pictures have to be downloaded first"} | fields)
    try:
        os.fsencode(name)
    except UnicodeError:
        return Row("", **{"problem": f"its path is no text: {name!r:.60}"} | fields)
    path = os.path.normpath(os.path.join(root, name))
    if "\\" in name and not os.path.lexists(path):
        path = os.path.normpath(os.path.join(root, name.replace("\\", "/")))
    if NUMBERED.search(name) and not os.path.lexists(path):
        path = NUMBERED.sub("", path)
    return Row(inside(path, root), path, **fields)


def inside(path: str, root: Path) -> str:
    """A normal path relative to a folder; an absolute one that is not in it stays as it is."""
    absolute = os.path.isabs(path) and not root.is_absolute()
    base = os.path.join(os.path.abspath(root) if absolute else os.path.normpath(root), "")
    if path.startswith(base):
        return path[len(base) :]
    return path if os.path.isabs(path) else os.path.relpath(path, root)


def caption_json(caption: Caption) -> Any:
    """A caption as ``KEY.json`` holds it: text, or ``{"text": …, "language": …}``."""
    return {"text": caption.text, "language": caption.language} if caption.language else caption.text
