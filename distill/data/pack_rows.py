"""The rows that ``distill data pack`` writes into shards: from a table of image files, or from a folder per class."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.data.images import image_files, is_ignored
from distill.errors import UserError, did_you_mean

# Usual names of a table's columns, for tables whose columns are not named by an option.
IMAGE_COLUMNS = ("image", "filepath", "file", "path", "image_path", "filename")
CAPTION_COLUMNS = ("caption", "captions", "title", "text", "description")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Row:
    """One image with its captions.

    Attributes:
        image: path of the file.
        captions: in their order; a row without any is left out of the shards.
        about: further entries of the sample's JSON.
    """

    image: Path
    captions: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)


def read_rows(source: Path, root: Path | None, image: str, captions: tuple[str, ...], template: str) -> Iterator[Row]:
    """The rows of a table (.csv, .tsv, .jsonl) or of a folder with a subfolder a class.

    Args:
        source: the table or folder.
        root: the folder that the table's paths are relative to; None: the table's own folder.
        image: the column of image files; "" takes the first usual name.
        captions: the columns of captions; empty takes the first usual name.
        template: the caption of an image in a class's folder, with {} for the class's name.

    Raises:
        UserError: if ``source`` is of another kind, cannot be read, or has no images.
    """
    if source.is_dir():
        return class_folder_rows(source, template)
    if source.suffix.lower() not in (*DELIMITERS, ".jsonl"):
        raise UserError(f"{source} is no folder and no .csv, .tsv or .jsonl file.", "Give one of these.")
    return table_rows(source, root or source.parent, image, captions)


def class_folder_rows(folder: Path, template: str) -> Iterator[Row]:
    """A row for every image in the subfolders of ``folder``, one subfolder a class, sorted by class and path.

    Raises:
        UserError: if ``template`` has no {}, or there are no images.
    """
    if "{}" not in template:
        raise UserError(
            f"The template '{template}' has no place for the class.", "Write --template 'a photo of a {}'."
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_ignored(path.name))
    images = [(label, name, path) for label, name in enumerate(names) for path in image_files(folder / name)]
    if not images:
        raise UserError(f"{folder} has no folders with pictures in them.", "Make one folder a class.")
    for label, name, path in images:
        yield Row(path, (template.replace("{}", name.replace("_", " ")),), {"class": name, "label": label})


def table_rows(file: Path, root: Path, image: str, captions: tuple[str, ...]) -> Iterator[Row]:
    """A row for every line of a table; arguments as in :func:`read_rows`.

    Raises:
        UserError: if the file cannot be read, a line is malformed, or a column is missing.
    """
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
                    image = find_column(file, entry, (image,) if image else IMAGE_COLUMNS, "--image")
                    captions = captions or (find_column(file, entry, CAPTION_COLUMNS, "--caption"),)
                    captions = tuple(find_column(file, entry, (name,), "--caption") for name in captions)
                yield Row(root / str(entry.get(image) or ""), entry_captions(entry, captions))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}.", "Repair it; it must be UTF-8.") from error


def find_column(file: Path, entry: dict[str, Any], names: tuple[str, ...], option: str) -> str:
    """The first of ``names`` that a table has as a column.

    Args:
        file: the table, for the error.
        entry: one of its lines.
        option: of the command line by which another column can be named, for the error.

    Raises:
        UserError: if there is none.
    """
    for name in names:
        if name in entry:
            return name
    known = [str(name) for name in entry]
    remedy = did_you_mean(names[0], known, f"It has {', '.join(known)}: name one with {option}.")
    raise UserError(f"{file} has no column '{names[0]}'.", remedy)


def entry_captions(entry: dict[str, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    """All captions in the given columns of a line, without empty ones; a list counts as several captions."""
    values = [entry.get(name) for name in columns]
    flat = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return tuple(str(text).strip() for text in flat if text is not None and str(text).strip())
