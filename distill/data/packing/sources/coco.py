"""Captions as COCO distributes them: one JSON file with a list of images and a list of annotations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.captions import captions_in
from distill.data.packing.json_text import kind, load, mentions
from distill.data.packing.row import NO_CAPTION, Row, file_row
from distill.data.packing.source import Source
from distill.errors import UserError


class Coco(Source):
    """``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``; a row for each annotation."""

    rank = 30
    noun = "COCO captions"
    takes = ("root",)
    remedy = "Give the folder of the pictures by --root."

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return kind(path) == "object" and mentions(path, b'"images"', b'"annotations"')

    def rows(self) -> Iterator[Row]:
        value = load(self.path)
        images, annotations = value.get("images"), value.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise UserError(f"{self.path} has no lists of images and annotations.", "Give COCO captions.")
        if annotations and not any(isinstance(one, dict) and "caption" in one for one in annotations):
            raise UserError(f"The annotations of {self.path} are no captions.", "Give the file captions_….json.")
        known: dict[Any, Row] = {}
        for number, image in enumerate(images, 1):
            row = self.image_row(image, f"image {number}")
            identity = image.get("id") if isinstance(image, dict) else None
            other = known.setdefault(str(identity), row) if not row.problem else row
            if other is not row and other.name != row.name:
                row = row.with_problem(f"its id is also that of another image: {other.name}")
            if row.problem:
                yield row
        described = set[str]()
        for number, annotation in enumerate(annotations, 1):
            yield annotation_row(annotation, f"annotation {number}", known, described)
        yield from (row.with_problem(NO_CAPTION) for image, row in known.items() if image not in described)

    def image_row(self, image: Any, where: str) -> Row:
        """The row of an entry of ``images``, without captions."""
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or "id" not in image:
            return Row("", where=where, problem="it has no id or no file_name")
        about = {"image_id": image["id"]}
        return file_row(name, self.options.root or self.path.parent, where=where, about=about)


def annotation_row(annotation: Any, where: str, known: dict[Any, Row], described: set[str]) -> Row:
    """The row of an entry of ``annotations``.

    Args:
        known: by their ids, rows of the images.
        described: the ids of those that have an annotation; this one's is added.
    """
    if not isinstance(annotation, dict) or "image_id" not in annotation:
        return Row("", where=where, problem="it has no image_id")
    image = str(annotation["image_id"])
    if image not in known:
        return Row("", where=where, problem=f"there is no image of its image_id: {image}")
    described.add(image)
    row = known[image]
    row = Row(row.name, row.path, where, about=row.about)
    try:
        return row.with_captions(captions_in(annotation.get("caption"), str(annotation.get("language") or "")))
    except (ValueError, RecursionError) as error:
        return row.with_problem(f"its caption cannot be read: {error}")


SOURCE = Coco
