"""Where pictures and captions come from before they are shards: tables that name files, folders that name classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.data.index import IMAGE_EXTENSIONS
from distill.errors import UserError, did_you_mean

IMAGES = ("image", "filepath", "file", "path", "image_path", "filename")  # usual names of the column of files
CAPTIONS = ("caption", "captions", "title", "text", "description")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Row:
    """One picture and what is said of it.

    Attributes:
        image: the file.
        captions: at least one.
        about: further facts, kept in the sample's JSON.
    """

    image: Path
    captions: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)


def rows_of(source: Path, root: Path | None, image: str, captions: tuple[str, ...], template: str) -> Iterator[Row]:
    """The rows of a table (.csv, .tsv, .jsonl) or of a folder with a subfolder a class.

    Args:
        source: the table or folder.
        root: what the table's paths are relative to; default the table's own folder.
        image, captions: columns; empty takes a usual name.
        template: of a class's caption, with {} for its name.

    Raises:
        UserError: if it cannot be read, or names no picture.
    """
    if source.is_dir():
        return classes(source, template)
    if source.suffix.lower() not in (*DELIMITERS, ".jsonl"):
        raise UserError(f"{source} is no folder and no .csv, .tsv or .jsonl file.", "Give one of these.")
    return table(source, root or source.parent, image, captions)


def classes(folder: Path, template: str) -> Iterator[Row]:
    """Every picture below each class's folder, in the order of names."""
    if "{}" not in template:
        raise UserError(
            f"The template '{template}' has no place for the class.", "Write --template 'a photo of a {}'."
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pictures = [
        (label, name, path)
        for label, name in enumerate(names)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS
    ]
    if not pictures:
        raise UserError(f"{folder} has no folders with pictures in them.", "Make one folder a class.")
    for label, name, path in pictures:
        yield Row(path, (template.replace("{}", name.replace("_", " ")),), {"class": name, "label": label})


def table(file: Path, root: Path, image: str, captions: tuple[str, ...]) -> Iterator[Row]:
    """Every line of a table."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".jsonl":
                entries: Iterator[dict[str, Any]] = (json.loads(line) for line in lines if line.strip())
            else:
                entries = csv.DictReader(lines, delimiter=DELIMITERS[file.suffix.lower()])
            for number, entry in enumerate(entries, 1):
                if not isinstance(entry, dict):
                    raise UserError(f"Line {number} of {file} is no table of columns.", "Write one object a line.")
                if number == 1:
                    image = column(file, entry, (image,) if image else IMAGES, "--image")
                    captions = captions or (column(file, entry, CAPTIONS, "--caption"),)
                    captions = tuple(column(file, entry, (name,), "--caption") for name in captions)
                yield Row(root / str(entry.get(image) or ""), texts(entry, captions))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}.", "Repair it; it must be UTF-8.") from error


def column(file: Path, entry: dict[str, Any], names: tuple[str, ...], option: str) -> str:
    """The first of some columns that a table has."""
    for name in names:
        if name in entry:
            return name
    known = [str(name) for name in entry]
    remedy = did_you_mean(names[0], known, f"It has {', '.join(known)}: name one with {option}.")
    raise UserError(f"{file} has no column '{names[0]}'.", remedy)


def texts(entry: dict[str, Any], captions: tuple[str, ...]) -> tuple[str, ...]:
    """What an entry says in some columns; a list counts as several."""
    found = [entry.get(name) for name in captions]
    flat = [text for value in found for text in (value if isinstance(value, list) else [value])]
    return tuple(str(text).strip() for text in flat if text is not None and str(text).strip())
