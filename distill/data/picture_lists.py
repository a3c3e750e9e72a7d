"""Folders of pictures as shards: lists of picture files, addressed like the samples of a tar file, without a copy.

A list names up to ``PICTURES`` files of a folder, with their sizes, times and hashes. It stands for a shard wherever
samples are numbered, ordered, embedded and read. The lists of ``photos/`` are in ``.photos.distill/pictures/`` beside
it, or in the user's cache folder where that cannot be written. When the folder has changed, the files of a list that
are still there stay together and new files get new lists, so that teacher caches of the others stay valid. A list is
called by the hash of its content. Lists of an earlier state of the folder are kept, because a run may be reading them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.images import image_files
from distill.data.index import ShardIndex, file_stamp
from distill.data.members import KINDS, readable
from distill.errors import BadSample, UserError
from distill.files import digest, user_cache, write_text
from distill.progress import progress_bar

SUFFIX = ".pictures"
PICTURES = 1000  # in a list: few enough that little is embedded again when the folder changes
WORTH_A_BAR = 5000  # pictures to be hashed, from which on a progress bar is shown
CHANGED = "the picture has changed since its folder was indexed"
LIST_DAMAGED = "Remove the folder that the list is in; it is made again."


@dataclass(frozen=True)
class Entry:
    """A picture of a list.

    Attributes:
        name: its path in the folder.
        size: in bytes.
        modified: time of its last change in nanoseconds.
        sha256: of its content, in hexadecimal.
    """

    name: str
    size: int
    modified: int
    sha256: str


def beside(folder: str | Path) -> Path:
    """The folder beside a collection of pictures for what is known of them: ``.NAME.distill``.

    Args:
        folder: the collection; of a name with braces or wildcards, the folder is ``.shards.distill``.
    """
    path = Path(folder).expanduser()
    name = path.name if path.exists() else "shards"
    whole = Path(os.path.abspath(path))
    return whole.parent / f".{name or whole.name}.distill"


def is_picture_list(name: str | Path) -> bool:
    """Whether a shard of this name is a list of pictures."""
    return str(name).endswith(SUFFIX)


def picture_lists(folder: Path) -> list[Path]:
    """The lists of a folder's pictures, made or brought up to date; empty if it holds no picture.

    Raises:
        UserError: if the folder or a picture cannot be read, or the lists can be written nowhere.
    """
    found = dict(scan(folder))
    if not found:
        return []
    places = (beside(folder) / "pictures", user_cache() / "pictures" / hash_of([str(folder.absolute())]))
    paths = [path for place in places for path in place.glob(f"*{SUFFIX}")]
    known = [read_entries(path) for path in sorted(paths, key=newest_first)]
    hashes = {(e.name, e.size, e.modified): e.sha256 for old in known for e in old}
    entries = with_hashes(folder, found, hashes)
    groups = [[entries.pop(e.name) for e in old if e.name in entries] for old in known]
    new = [entries[name] for name in sorted(entries)]
    groups += [new[first : first + PICTURES] for first in range(0, len(new), PICTURES)]
    for place in places:
        with suppress(OSError):
            return write_lists(place, folder, filter(None, groups))
    raise UserError(
        f"The list of the pictures in {folder} can be written neither beside it nor to {user_cache()}.",
        "Make one of them writable.",
    )


def scan(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(path in the folder, size and time) of all pictures, without those in hidden folders."""
    try:
        for file in image_files(folder):
            name = str(file.relative_to(folder))
            if not any(part.startswith(".") for part in Path(name).parts):
                yield name, file.stat()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.", "Correct its permissions.") from error


def with_hashes(
    folder: Path, found: Mapping[str, os.stat_result], known: Mapping[tuple[str, int, int], str]
) -> dict[str, Entry]:
    """The entries of pictures by name; only those whose size or time is not ``known`` are read.

    Raises:
        UserError: if one cannot be read.
    """
    entries = dict[str, Entry]()
    unknown = sum((name, stat.st_size, stat.st_mtime_ns) not in known for name, stat in found.items())
    progress = progress_bar("indexing", unknown, "pictures") if unknown >= WORTH_A_BAR else None
    for name, stat in found.items():
        sha256 = known.get((name, stat.st_size, stat.st_mtime_ns))
        if sha256 is None:
            try:
                sha256 = digest(folder / name)
            except OSError as error:
                raise UserError(
                    f"The picture {folder / name} cannot be read: {error.strerror}.", "Correct its permissions."
                ) from error
            if progress is not None:
                progress.update(1)
        entries[name] = Entry(name, stat.st_size, stat.st_mtime_ns, sha256)
    if progress is not None:
        progress.close()
    return entries


def write_lists(place: Path, folder: Path, groups: Iterable[list[Entry]]) -> list[Path]:
    """Write the lists that are not there yet, or name other times of files, and return the paths of all, sorted.

    Raises:
        OSError: if they cannot be written.
    """
    written = list[Path]()
    for entries in groups:
        path = place / f"{content_hash(entries)[:16]}{SUFFIX}"
        lines = [json.dumps({"folder": os.path.relpath(folder, place)})]
        lines += [json.dumps([e.name, e.size, e.modified, e.sha256]) for e in entries]
        text = "\n".join(lines) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        written.append(path)
    return sorted(written)


def newest_first(path: Path) -> tuple[int, str]:
    """The sort key of lists by which those of the folder's last state come first."""
    try:
        return -path.stat().st_mtime_ns, path.name
    except OSError:  # another process has replaced it
        return 0, path.name


def read_entries(path: Path) -> list[Entry]:
    """The pictures of a list; empty if it is missing or damaged, since it can be made again."""
    try:
        _, *lines = path.read_text(encoding="utf-8").splitlines()
        return [Entry(*json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):
        return []


def read_list(path: Path) -> ShardIndex:
    """A list as the index of a shard; in place of an offset, ``members`` holds the time of a picture's last change.

    Raises:
        UserError: if it is missing or damaged.
    """
    stamp, entries = file_stamp(path), read_entries(path)
    if not entries:
        raise UserError(f"The list of pictures {path} is damaged.", LIST_DAMAGED)
    members = np.full((len(entries), len(KINDS), 2), (0, -1), dtype=np.int64)
    members[:, 0] = [(entry.modified, entry.size) for entry in entries]
    keys = tuple(entry.name for entry in entries)
    return ShardIndex(path, keys, members, content_hash(entries), stamp)


def read_picture(path: str, key: str, modified: int, size: int) -> bytes:
    """The bytes of a picture of a list.

    Args:
        path: of the list.
        key: the picture's path in its folder.
        modified, size: those of :class:`Entry`.

    Raises:
        OSError: if it cannot be read.
        BadSample: if it has changed since it was listed.
    """
    with open(os.path.join(folder_of(path), key), "rb") as file:
        stat = os.fstat(file.fileno())
        if (stat.st_mtime_ns, stat.st_size) != (modified, size):
            raise BadSample(path, readable(key), CHANGED)
        return file.read()


@functools.lru_cache(maxsize=4096)
def folder_of(path: str) -> str:
    """The folder of the pictures of a list.

    Raises:
        OSError: if the list cannot be read.
        BadSample: if it is damaged.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return os.path.join(os.path.dirname(path), json.loads(file.readline())["folder"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadSample(path, "", "the list of pictures is damaged") from error


def content_hash(entries: Iterable[Entry]) -> str:
    """SHA-256 of the names and contents of pictures, in hexadecimal: times and places of files are not part of it."""
    return hash_of(f"{entry.name}\0{entry.sha256}" for entry in entries)


def hash_of(parts: Iterable[str]) -> str:
    """SHA-256 of some texts, in hexadecimal."""
    lines = "\n".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.sha256(lines).hexdigest()
