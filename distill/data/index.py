"""The index of a shard: where each sample's members lie, so that a stream becomes an addressable data set.

It is kept beside the shard as ``SHARD.tar.index`` (a safetensors file), or in the user's cache folder where that is
read only, and made anew when the shard's size or modification time is another. What is wrong with an archive is part
of its index: a shard that is cut off still has the samples before the cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.files import digest, write_whole

IMAGE = frozenset({"jpg", "jpeg", "png", "webp"})
KINDS = ("image", "txt", "json")  # the columns of an index
UNNAMED = "no member is named KEY.jpg, KEY.png, KEY.webp, KEY.txt or KEY.json"
DAMAGED = (tarfile.TarError, ValueError, OverflowError, RecursionError)  # what tarfile raises at one that is
VERSION = "2"


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one shard are.

    Attributes:
        path: the shard.
        keys: one name a sample, in file order.
        members: [n, 3, 2] int64: (offset, size) of the image, the .txt and the .json; size −1 where absent.
        sha256: of the whole shard.
        stamp: its size in bytes and its modification time in nanoseconds.
        faults: (key, reason) of what is wrong with it; the key is "" for the archive as a whole.
    """

    path: Path
    keys: tuple[str, ...]
    members: np.ndarray
    sha256: str
    stamp: tuple[int, int]
    faults: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def cut(self) -> bool:
        """Whether samples may be missing from it."""
        return any(not key for key, _ in self.faults)


def stamp_of(path: Path) -> tuple[int, int]:
    """By what a file is recognised without reading it: size and modification time.

    Raises:
        UserError: if it is not there, or may not be read.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte
        raise UserError(f"The shard {path} cannot be read: {error}.", "Restore it.") from error
    return stat.st_size, stat.st_mtime_ns


def build_index(path: Path) -> ShardIndex:
    """Read a shard's headers from end to end, as far as they go.

    Raises:
        UserError: if the file cannot be opened.
    """
    stamp = stamp_of(path)
    rows: dict[str, list[tuple[int, int]]] = {}
    faults: list[tuple[str, str]] = []
    try:
        read_headers(path, stamp[0], rows, faults)
        sha256 = digest(path)
    except OSError as error:
        raise UserError(f"The shard {path} cannot be read: {error.strerror}.", "Restore it.") from error
    if not rows and not faults:
        faults.append(("", UNNAMED))
    members = np.array(list(rows.values()), dtype=np.int64).reshape(len(rows), len(KINDS), 2)
    return ShardIndex(path, tuple(rows), members, sha256, stamp, tuple(faults))


def read_headers(path: Path, size: int, rows: dict[str, list[tuple[int, int]]], faults: list[tuple[str, str]]) -> None:
    """Fill in the members of a tar file of so many bytes, and what is wrong with it."""
    try:
        with tarfile.open(path, "r:") as tar:
            end = 0
            while (member := tar.next()) is not None:
                if tar.offset <= end:  # a header with a negative size would be read for ever
                    raise tarfile.ReadError("a header leads backwards")
                end = tar.offset
                tar.members = []  # type: ignore[attr-defined]  # or tarfile remembers every member it has seen
                take(member, size, rows, faults)
            # tarfile takes any damaged header for the end of the archive; the real end is a block of zeros.
            if not is_end(path, tar.offset):
                raise tarfile.ReadError("it has no end-of-archive mark where its last member ends")
    except DAMAGED as error:
        faults.append(("", f"the archive is empty, cut off or damaged after {len(rows)} samples: {error}"))


def take(
    member: tarfile.TarInfo, size: int, rows: dict[str, list[tuple[int, int]]], faults: list[tuple[str, str]]
) -> None:
    """Put one member of an archive of so many bytes where it belongs."""
    found = named(member)
    if found is None:
        return
    key, kind = found
    row = rows.setdefault(key, [(0, -1)] * len(KINDS))
    if row[kind][1] >= 0:
        faults.append((key, f"the shard holds two {KINDS[kind]} members of this name; the first one counts"))
    elif member.size >= 0 and member.offset_data + member.size <= size:
        row[kind] = (member.offset_data, member.size)


def named(member: tarfile.TarInfo) -> tuple[str, int] | None:
    """The sample that a member of an archive belongs to, and its column of ``ShardIndex.members``; None for others."""
    split = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]*)", member.name)
    kind = kind_of(split[2].lower()) if split else None
    if not member.isfile() or split is None or kind is None:
        return None
    # A name need not be text; a key must, since views follow from it.
    return split[1].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), kind


def is_end(path: Path, offset: int) -> bool:
    """Whether a tar file has its end-of-archive mark at this offset."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def kind_of(extension: str) -> int | None:
    """The column of ``ShardIndex.members`` a member with this extension belongs to, if any."""
    if extension in IMAGE:
        return 0
    return KINDS.index(extension) if extension in KINDS[1:] else None


def places(path: Path) -> tuple[Path, Path]:
    """Where a shard's index may be: beside it, and in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distill" / "indexes"
    name = hashlib.sha256(str(path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return path.with_name(path.name + ".index"), base / f"{name}.index"


def read_index(path: Path) -> ShardIndex:
    """A shard's index: one that is kept and still fits the shard, else a new one, kept if it can be.

    Raises:
        UserError: if the shard cannot be read.
    """
    stamp = stamp_of(path)
    for place in places(path):
        kept = load_index(place, path, stamp)
        if kept is not None:
            return kept
    index = build_index(path)
    save_index(index)
    return index


def load_index(place: Path, path: Path, stamp: tuple[int, int]) -> ShardIndex | None:
    """A kept index; None if it is absent, torn, of another make or another shard: one can always be made again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(place, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("version") != VERSION or about.get("stamp") != json.dumps(stamp):
                return None
            keys = tuple(json.loads(file.get_tensor("keys").tobytes()))
            members = file.get_tensor("members")
            faults = tuple((str(key), str(reason)) for key, reason in json.loads(about["faults"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    fits = members.dtype == np.int64 and members.shape == (len(keys), len(KINDS), 2)
    if not fits or not all(isinstance(key, str) for key in keys) or not inside(members, stamp[0]):
        return None
    return ShardIndex(path, keys, members, str(about.get("sha256")), stamp, faults)


def inside(members: np.ndarray, size: int) -> bool:
    """Whether all members lie in a file of so many bytes."""
    offset, length = members[..., 0], members[..., 1]
    return bool(((offset >= 0) & (length >= -1) & (offset <= size) & (length <= size - offset)).all())


def save_index(index: ShardIndex) -> None:
    """Keep an index for the next time, where that can be. If it cannot, there is a next scan."""
    from safetensors.numpy import save_file

    keys = np.frombuffer(json.dumps(index.keys).encode(), dtype=np.uint8)
    tensors: dict[str, Any] = {"members": index.members, "keys": keys}
    about = {"version": VERSION, "stamp": json.dumps(index.stamp), "sha256": index.sha256}
    about |= {"faults": json.dumps(index.faults)}
    for place in places(index.path):
        try:
            write_whole(place, lambda to: save_file(tensors, to, metadata=about))
            return
        except Exception:  # no space, no permission: in safetensors' own words
            continue
