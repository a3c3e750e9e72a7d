"""A source of ``distill data pack``: a zip archive of pictures, whose names are their captions."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from distill.data.captions import captions_in
from distill.data.images import is_image_name
from distill.data.packing.row import Row
from distill.data.packing.source import Source


class ZipArchive(Source):
    """A zip archive of pictures; ``a_red_circle.png`` is captioned "a red circle"."""

    rank = 5
    noun = "a zip archive"
    takes = ()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file() and zipfile.is_zipfile(path)

    def rows(self) -> Iterator[Row]:
        with zipfile.ZipFile(self.path) as archive:
            for name in archive.namelist():
                if is_image_name(name):
                    words = PurePosixPath(name).stem.replace("_", " ")
                    yield Row(name, data=archive.read(name)).with_captions(captions_in(words))
