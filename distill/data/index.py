"""The index of a shard: the byte offset and size of every sample's members, so that samples can be read in any order.

An index is stored beside its shard as ``SHARD.tar.index`` (a safetensors file), or in the user's cache folder where
the shard's folder is read-only. It is made again when the shard's size or modification time has changed. Faults of the
archive are part of the index: of a shard that is cut off, the samples before the cut can still be used.
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

from distill.data.images import EXTENSIONS
from distill.errors import UserError
from distill.files import digest, write_whole

KINDS = ("image", "txt", "json")  # the columns of an index
NO_SAMPLES = "no member is named KEY.jpg, KEY.png or the like, KEY.txt or KEY.json"
TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError)  # what tarfile raises for a damaged archive
VERSION = "2"  # of the stored file's format

Members = dict[str, list[tuple[int, int]]]  # of each key one (offset, size) for each of KINDS
Faults = list[tuple[str, str]]  # (key, reason)


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one shard are.

    Attributes:
        path: the shard.
        keys: one a sample, in file order.
        members: [n, 3, 2] int64: (offset, size) in bytes of the image, the .txt and the .json; size −1 where absent.
        sha256: of the whole shard.
        stamp: the shard's size in bytes and its modification time in nanoseconds.
        faults: (key, reason) of everything wrong in the shard; the key is "" where the archive itself is damaged.
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
    def incomplete(self) -> bool:
        """Whether the archive is damaged, so that samples may be missing from the index."""
        return any(not key for key, _ in self.faults)


def file_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds, by which a changed file is noticed without reading it.

    Raises:
        UserError: if the file does not exist or may not be read.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte
        raise UserError(f"The shard {path} cannot be read: {error}.", "Restore it.") from error
    return stat.st_size, stat.st_mtime_ns


def scan_shard(path: Path) -> ShardIndex:
    """Make a shard's index by reading all its headers, up to the first damaged one.

    Raises:
        UserError: if the file cannot be opened.
    """
    stamp = file_stamp(path)
    rows: Members = {}
    faults: Faults = []
    try:
        scan_headers(path, stamp[0], rows, faults)
        sha256 = digest(path)
    except OSError as error:
        raise UserError(f"The shard {path} cannot be read: {error.strerror}.", "Restore it.") from error
    if not rows and not faults:
        faults.append(("", NO_SAMPLES))
    members = np.array(list(rows.values()), dtype=np.int64).reshape(len(rows), len(KINDS), 2)
    return ShardIndex(path, tuple(rows), members, sha256, stamp, tuple(faults))


def scan_headers(path: Path, size: int, rows: Members, faults: Faults) -> None:
    """Add the members of a tar file of ``size`` bytes to ``rows``, and everything wrong with it to ``faults``."""
    try:
        with tarfile.open(path, "r:") as tar:
            end = 0
            while (member := tar.next()) is not None:
                if tar.offset <= end:  # a header with a negative size would be read again and again
                    raise tarfile.ReadError("a header leads backwards")
                end = tar.offset
                tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member in memory
                add_member(member, size, rows, faults)
            # tarfile takes any damaged header for the end of the archive; the real end is a block of zeros.
            if not has_end_mark(path, tar.offset):
                raise tarfile.ReadError("it has no end-of-archive mark where its last member ends")
    except TAR_ERRORS as error:
        faults.append(("", f"the archive is empty, cut off or damaged after {len(rows)} samples: {error}"))


def add_member(member: tarfile.TarInfo, size: int, rows: Members, faults: Faults) -> None:
    """Add one member to the row of its sample, unless its data would end beyond the archive's ``size`` bytes."""
    key_and_column = sample_member(member)
    if key_and_column is None:
        return
    key, column = key_and_column
    row = rows.setdefault(key, [(0, -1)] * len(KINDS))
    if row[column][1] >= 0:
        faults.append((key, f"the shard holds two {KINDS[column]} members of this name; the first one counts"))
    elif member.size >= 0 and member.offset_data + member.size <= size:
        row[column] = (member.offset_data, member.size)


def sample_member(member: tarfile.TarInfo) -> tuple[str, int] | None:
    """The key of the sample that a member belongs to, and its column in ``KINDS``; None if it is part of no sample."""
    split = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]*)", member.name)
    column = extension_column(split[2].lower()) if split else None
    if not member.isfile() or split is None or column is None:
        return None
    # The bytes of a name need not be UTF-8. A key must be text: views are drawn from its characters.
    return split[1].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), column


def has_end_mark(path: Path, offset: int) -> bool:
    """Whether a tar file has an end-of-archive mark, a block of zeros, at this offset."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def extension_column(extension: str) -> int | None:
    """The column in ``KINDS`` of members with this extension; None for extensions that are not read."""
    if extension in EXTENSIONS:
        return 0
    return KINDS.index(extension) if extension in KINDS[1:] else None


def index_paths(path: Path) -> tuple[Path, Path]:
    """Where a shard's index may be stored: beside the shard, and in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distill" / "indexes"
    name = hashlib.sha256(str(path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return path.with_name(path.name + ".index"), base / f"{name}.index"


def read_index(path: Path) -> ShardIndex:
    """The index of a shard: the stored one if the shard has not changed since, otherwise a new one, which is stored.

    Raises:
        UserError: if the shard cannot be read.
    """
    stamp = file_stamp(path)
    for index_path in index_paths(path):
        stored = load_stored_index(index_path, path, stamp)
        if stored is not None:
            return stored
    index = scan_shard(path)
    save_index(index)
    return index


def load_stored_index(index_path: Path, path: Path, stamp: tuple[int, int]) -> ShardIndex | None:
    """A stored index, or None if it is absent, damaged, of another format version or not of a shard with this stamp.

    None of these is an error, because the index can be made again from the shard.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(index_path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("version") != VERSION or metadata.get("stamp") != json.dumps(stamp):
                return None
            keys = tuple(json.loads(file.get_tensor("keys").tobytes()))
            members = file.get_tensor("members")
            faults = tuple((str(key), str(reason)) for key, reason in json.loads(metadata["faults"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    well_formed = members.dtype == np.int64 and members.shape == (len(keys), len(KINDS), 2)
    if not well_formed or not all(isinstance(key, str) for key in keys) or not members_fit(members, stamp[0]):
        return None
    return ShardIndex(path, keys, members, str(metadata.get("sha256")), stamp, faults)


def members_fit(members: np.ndarray, size: int) -> bool:
    """Whether all members, [n, 3, 2] as in ``ShardIndex``, lie within a file of ``size`` bytes."""
    offset, length = members[..., 0], members[..., 1]
    return bool(((offset >= 0) & (length >= -1) & (offset <= size) & (length <= size - offset)).all())


def save_index(index: ShardIndex) -> None:
    """Store an index at the first of :func:`index_paths` that can be written; if none can, it is not stored."""
    from safetensors.numpy import save_file

    keys = np.frombuffer(json.dumps(index.keys).encode(), dtype=np.uint8)
    tensors: dict[str, Any] = {"members": index.members, "keys": keys}
    metadata = {"version": VERSION, "stamp": json.dumps(index.stamp), "sha256": index.sha256}
    metadata |= {"faults": json.dumps(index.faults)}
    for index_path in index_paths(index.path):
        try:
            write_whole(index_path, lambda to: save_file(tensors, to, metadata=metadata))
            return
        except Exception:  # a full disk or a missing permission, for which safetensors has errors of its own
            continue
