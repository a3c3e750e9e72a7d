"""Folders with a file of captions beside each picture, NAME.txt beside NAME.jpg, as image generators are tuned on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distill.data.captions import captions_in
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
from distill.data.packing.json_text import load
from distill.data.packing.row import Row
from distill.data.packing.source import Options, Source, say
from distill.data.packing.text_file import is_text, open_text
from distill.errors import UserError
from distill.wording import counted


class CaptionFiles(Source):
    """Each line of NAME.txt (or NAME.caption) is a caption of NAME.jpg; NAME.json, if there, is kept."""

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
            say(f"{self.path}: in {counted(self.several, 'file')} are several lines, of which each is a caption")

    def image_row(self, path: Path, folder: Path, split: str) -> Row:
        """The row of a picture."""
        row = Row(str(path.relative_to(folder)), str(path), split=split)
        beside = caption_file(path)
        if beside is None:
            return row.with_problem(f"there is no {CAPTION_FILES[0]} of this name beside it")
        try:
            with open_text(beside) as file:
                text = file.read()
            about = load(path.with_suffix(".json")) if path.with_suffix(".json").is_file() else {}
        except (UserError, OSError) as error:
            return row.with_problem(f"its captions cannot be read: {error}")
        if not is_text(text):
            return row.with_problem(f"its captions are not UTF-8: {beside.name}")
        captions = [line for line in text.split("\n") if line.strip()]
        self.several += len(captions) > 1
        about = (
            {name: value for name, value in about.items() if name not in ("captions", "file")}
            if isinstance(about, dict)
            else {}
        )
        return Row(row.name, row.path, about=about, split=split).with_captions(captions_in(captions))


SOURCE = CaptionFiles
