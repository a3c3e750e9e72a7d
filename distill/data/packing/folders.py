"""Folders of pictures: the splits they may be divided into, and the files they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from distill.data.images import EXTENSIONS, files, is_ignored, is_image_name
from distill.data.packing.row import Row
from distill.data.packing.source import listed
from distill.errors import UserError

# Usual names of splits; capitals do not matter.
SPLITS = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}
SPLIT_NAME = re.compile(r"(?i)([a-z]+?)(?:[ _-]?(?:\d+|images?|imgs?|set|data|split))?")  # val, train2017, test_images
DESCRIPTION_FILE = "pack.json"  # beside packed shards: what they were made of
CAPTION_FILES = (".txt", ".caption")
PEEK = 1000  # pictures of a folder that are looked at to tell what kind it is


def split_of(name: str) -> str:
    """The split that a folder's name means; "" if none."""
    found = SPLIT_NAME.fullmatch(name)
    return SPLITS.get(found[1].lower(), "") if found else ""


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden and ignored ones and those of packed shards, sorted."""
    inside = (path for path in folder.iterdir() if not path.name.startswith(".") and not is_ignored(path.name))
    return sorted(path for path in inside if path.is_dir() and not (path / DESCRIPTION_FILE).is_file())


def split_folders(folder: Path) -> dict[str, Path]:
    """{split: its folder}, or {"": ``folder``} if it is not divided.

    Raises:
        UserError: if some of its folders are named like splits and others are not, or two mean the same split.
    """
    inside = subfolders(folder)
    splits = [path for path in inside if split_of(path.name)]
    others = [path.name for path in inside if not split_of(path.name)]
    divided = len(splits) > 1 or any(map(subfolders, splits)) or bool(splits) and not others
    if not divided:
        return {"": folder}
    if any(has_images(folder / name) for name in others):
        raise UserError(
            f"{folder} holds {listed([path.name for path in splits])}, which name splits, and {listed(others)}.",
            "Move either of them into another folder.",
        )
    found = {split_of(path.name): path for path in splits}
    if len(found) < len(splits):
        raise UserError(f"Two folders of {folder} name the same split.", "Rename one of them.")
    return found


def visible_files(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders but hidden and ignored ones, sorted by path.

    The folder that shards of the pictures are packed into may lie beside them, and is passed over.
    """
    packed = {path.name for path in folder.iterdir() if (path / DESCRIPTION_FILE).is_file()}
    for path in files(folder):
        parts = path.relative_to(folder).parts
        if parts[0] not in packed and not any(part.startswith(".") for part in parts):
            yield path


def image_paths(folder: Path) -> Iterator[Path]:
    """Those of :func:`visible_files` that are pictures by their names."""
    return filter(is_image_name, visible_files(folder))


def has_images(folder: Path) -> bool:
    """Whether there is a picture in a folder or its subfolders."""
    return any(image_paths(folder))


def has_caption_files(folder: Path) -> bool:
    """Whether most pictures of a folder have a file with captions beside them: NAME.txt beside NAME.jpg."""
    first = list(islice(image_paths(folder), PEEK))
    return sum(caption_file(path) is not None for path in first) * 2 > len(first)


def caption_file(image: Path) -> Path | None:
    """The file with a picture's captions."""
    return next((path for end in CAPTION_FILES if (path := image.with_suffix(end)).is_file()), None)


def not_a_picture(path: Path, folder: Path, split: str = "") -> Row:
    """The row of a file in a folder of pictures that is none."""
    name = str(path.relative_to(folder))
    return Row(name, str(path), split=split, problem=f"its name does not end as a picture's does ({ENDINGS})")


ENDINGS = ", ".join(f".{extension}" for extension in sorted(EXTENSIONS))
