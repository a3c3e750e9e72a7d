"""Folders with one folder a class, as ImageNet has them, perhaps below train, val and test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distill.data.captions import captions_in
from distill.data.images import is_image_name
from distill.data.packing.folders import (
    has_images,
    not_a_picture,
    split_folders,
    subfolders,
    visible_files,
)
from distill.data.packing.row import Row
from distill.data.packing.source import TEMPLATE, Options, Source, listed, say
from distill.errors import UserError
from distill.wording import counted

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")  # to be pointed at where classes are missing
NO_CLASSES = "Make one folder a class in it, write NAME.txt beside each NAME.jpg, or pack a table of captions."


class ClassFolders(Source):
    """A picture's class is the name of the folder that it lies in; a template makes a caption of it."""

    rank = 80
    noun = "a folder with one folder a class"
    takes = ("template",)

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        if options.template and "{}" not in options.template:
            raise UserError(
                f"The template '{options.template}' has no place for the class.", f"Write --template '{TEMPLATE}'."
            )

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_dir() and has_images(path)

    def rows(self) -> Iterator[Row]:
        splits = split_folders(self.path)
        names = sorted({sub.name for folder in splits.values() for sub in subfolders(folder) if has_images(sub)})
        tables = sorted(path for path in self.path.iterdir() if path.suffix.lower() in TABLES)
        if not names or len(names) == 1 and tables:  # a folder "images" beside its table is no class
            raise UserError(
                f"The pictures of {self.path} have neither captions beside them nor several classes.",
                f"To pack the table {tables[0].name}, name it: {tables[0]}." if tables else NO_CLASSES,
            )
        labels = {name: label for label, name in enumerate(names)}
        say(f"{self.path}: {counted(len(names), 'class', 'classes')}: {listed(names, 5)}")
        for split, folder in splits.items():
            empty = [sub.name for sub in subfolders(folder) if not has_images(sub)]
            if empty:
                say(f"{folder}: without pictures, and no classes: {listed(empty)}")
            for path in visible_files(folder):
                yield self.file_row(path, folder, split, labels)

    def file_row(self, path: Path, folder: Path, split: str, labels: dict[str, int]) -> Row:
        """The row of a file in a class's folder.

        Args:
            folder: of all classes.
            labels: {class: its number}.
        """
        relative = path.relative_to(folder)
        if not is_image_name(relative):
            return not_a_picture(path, folder, split)
        if len(relative.parts) == 1:
            return Row(str(relative), str(path), problem="it lies in no class's folder", split=split)
        name = relative.parts[0]
        about = {"class": name, "label": labels[name]}
        return Row(str(relative), str(path), about=about, split=split).with_captions(captions_in(self.caption(name)))

    def caption(self, name: str) -> str:
        """The caption of a class. The default template says "an" before a vowel letter."""
        words = name.replace("_", " ")
        if self.options.template in ("", TEMPLATE):
            return f"a photo of {'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"
        return self.options.template.replace("{}", words)


SOURCE = ClassFolders
