"""Folders with a file of captions beside each picture, NAME.txt beside NAME.jpg, as image generators are tuned on."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from json import loads
from pathlib import Path

from distill.data.captions import Captions
from distill.data.images import is_image_name
from distill.data.packing.folders import (
    CAPTION_FILES,
    caption_file,
    has_caption_files,
    has_images,
    not_a_picture,
    split_folders,
    visible_files,
)
from distill.data.packing.row import Row
from distill.data.packing.source import Options, Source, say
from distill.data.sample import Sample
from distill.errors import BadSample
from distill.wording import counted


class CaptionFiles(Source):
    """NAME.txt (or NAME.caption) is the caption of NAME.jpg; NAME.json may hold further ones, and is kept."""

    rank = 70
    noun = "a folder of pictures with captions beside them"
    takes = ()

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        self.several = 0

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_dir() and has_images(path) and has_caption_files(path)

    def rows(self) -> Iterator[Row]:
        for split, folder in split_folders(self.path).items():
            beside = (*CAPTION_FILES, ".json")
            stems = set[Path]()
            orphans: list[Path] = []
            for path in visible_files(folder):
                if is_image_name(path.relative_to(folder)):
                    stems.add(path.with_suffix(""))
                    yield self.image_row(path, folder, split)
                elif path.suffix in beside:
                    orphans.append(path)
                else:
                    yield not_a_picture(path, folder, split)
            for path in orphans:
                if path.with_suffix("") not in stems:
                    name = str(path.relative_to(folder))
                    yield Row(name, str(path), problem="there is no picture of this name beside it", split=split)
        if self.several:
            say(f"{self.path}: in {counted(self.several, 'file')} are several lines, which are one caption")

    def image_row(self, path: Path, folder: Path, split: str) -> Row:
        """The row of a picture."""
        row = Row(str(path.relative_to(folder)), str(path), split=split)
        text, about = caption_file(path), path.with_suffix(".json")
        if text is None and not about.is_file():
            return row.with_problem(f"there is no {CAPTION_FILES[0]} of this name beside it")
        try:
            txt = text.read_bytes().removeprefix(BOM_UTF8) if text else None
            json = about.read_bytes() if about.is_file() else None
            captions = Captions().read(Sample(row.name, str(folder), None, txt, json))
            further = loads(json) if json else {}
        except BadSample as error:
            return row.with_problem(error.bad.reason)
        except OSError as error:
            return row.with_problem(f"its captions cannot be read: {error.strerror}")
        self.several += b"\n" in (txt or b"").strip()
        kept = (
            {name: value for name, value in further.items() if name != "captions"} if isinstance(further, dict) else {}
        )
        return Row(row.name, row.path, about=kept, split=split).with_captions(captions)


SOURCE = CaptionFiles
