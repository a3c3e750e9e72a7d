"""The index of a shard: the byte offset and size of every sample's members, so that samples can be read in any order.

An index is stored beside its shard as ``SHARD.tar.index`` (a safetensors file), or in the user's cache folder where
the shard's folder is read-only. It is made again when the shard's size or modification time has changed. Faults of the
archive are part of the index: of a shard that is cut off, the samples before the cut can still be used.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.archives import what_it_is
from distill.data.members import KINDS, Leftover, Leftovers, is_stored_whole, no_samples, place_of
from distill.errors import UserError
from distill.files import digest, user_cache, write_whole
from distill.wording import counted

TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError)  # what tarfile raises for a damaged archive
VERSION = "3"  # of the stored file's format
REST_BYTES = 1 << 16  # after the end of an archive that are looked at
MAX_LINKS = 8  # from a link over further links to a file

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
        leftovers: the members that belong to no sample.
    """

    path: Path
    keys: tuple[str, ...]
    members: np.ndarray
    sha256: str
    stamp: tuple[int, int]
    faults: tuple[tuple[str, str], ...] = ()
    leftovers: tuple[Leftover, ...] = ()

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
    scan = Scan(path, stamp[0])
    try:
        scan.read()
        sha256 = digest(path)
    except OSError as error:
        raise UserError(f"The shard {path} cannot be read: {error.strerror}.", "Restore it.") from error
    leftovers = scan.leftovers.found()
    if not scan.rows and not scan.faults:
        scan.faults.append(("", no_samples(leftovers)))
    members = np.array(list(scan.rows.values()), dtype=np.int64).reshape(len(scan.rows), len(KINDS), 2)
    return ShardIndex(path, tuple(scan.rows), members, sha256, stamp, tuple(scan.faults), leftovers)


def headers(path: Path, leftovers: Leftovers | None = None) -> Iterator[tarfile.TarInfo]:
    """The headers of all members of a tar file.

    Args:
        path: of the file.
        leftovers: takes note of what follows the archive's end.

    Raises:
        OSError: if it cannot be opened.
        tarfile.TarError, ValueError, OverflowError, RecursionError: at the first damaged header; ``TAR_ERRORS``.
    """
    with tarfile.open(path, "r:") as tar:
        end = 0
        while (member := tar.next()) is not None:
            if tar.offset <= end:  # a header with a negative size would be read again and again
                raise tarfile.ReadError("a header leads backwards")
            end = tar.offset
            tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member in memory
            yield member
        rest = bytes_at(path, tar.offset, REST_BYTES)
    # tarfile takes any damaged header for the end of the archive; the real end is a block of zeros.
    if rest[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end-of-archive mark where its last member ends")
    if leftovers is not None:
        leftovers.add_rest(rest)


class Scan:
    """One reading of a shard's headers.

    Args:
        path: the shard.
        size: its size in bytes.

    Attributes:
        rows: the samples found.
        faults: everything wrong.
        leftovers: counts the members that belong to no sample.
        links: (name, name of the target) of the members that are links.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.rows: Members = {}
        self.faults: Faults = []
        self.leftovers = Leftovers()
        self.links: list[tuple[str, str]] = []

    def read(self) -> None:
        try:
            for member in headers(self.path, self.leftovers):
                self.add(member)
        except TAR_ERRORS as error:
            damaged = f"the archive is empty, cut off or damaged after {counted(len(self.rows), 'sample')}: {error}"
            self.faults.append(("", (not self.rows and what_it_is(self.path)) or damaged))
        if self.links:
            self.follow_links()
        for key in [key for key in self.leftovers.waiting if key in self.rows]:
            self.leftovers.sample(key, [k for k, (_, size) in enumerate(self.rows[key]) if size >= 0])

    def add(self, member: tarfile.TarInfo) -> None:
        """Add one member to the row of its sample, unless its data would end beyond the archive."""
        place = place_of(member.name)
        if is_link(member):
            self.links.append((member.name, link_target(member)))
            if place is not None:  # the sample's place in the order is where its first member stands
                self.rows.setdefault(place[0], [(0, -1)] * len(KINDS))
        elif place is None or not is_stored_whole(member):
            self.leftovers.add(member)
        else:
            self.fill(*place, (member.offset_data, member.size))

    def fill(self, key: str, column: int, span: tuple[int, int]) -> None:
        row = self.rows.setdefault(key, [(0, -1)] * len(KINDS))
        if row[column][1] >= 0:
            reason = f"the shard holds two {KINDS[column]} members of this name; the first one counts"
            self.faults.append((key, reason))
        elif span[1] >= 0 and span[0] + span[1] <= self.size:
            row[column] = span

    def follow_links(self) -> None:
        """Give the members that are links the bytes of the files that they lead to.

        A file may have any name, so the headers are read a second time, for those that are wanted.
        """
        targets = {posixpath.normpath(name): target for name, target in self.links}
        wanted, files = set(targets.values()), dict[str, tuple[int, int]]()
        with suppress(*TAR_ERRORS):
            for member in headers(self.path):
                if is_stored_whole(member) and (name := posixpath.normpath(member.name)) in wanted:
                    files.setdefault(name, (member.offset_data, member.size))
        for name, target in self.links:
            place = place_of(name)
            for _ in range(MAX_LINKS):
                target = target if target in files else targets.get(target, target)
            if place is not None and target in files:
                self.fill(*place, files[target])
                continue
            self.leftovers.add_link(name)
            if place is not None and all(size < 0 for _, size in self.rows.get(place[0], ())):
                self.rows.pop(place[0], None)


def is_link(member: tarfile.TarInfo) -> bool:
    """Whether a member is a hard or a symbolic link."""
    return member.issym() or member.islnk()


def link_target(link: tarfile.TarInfo) -> str:
    """The name of the member that a link leads to. A hard link names it, a symbolic one starts at its own folder."""
    start = posixpath.dirname(link.name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(start, link.linkname))


def bytes_at(path: Path, offset: int, size: int) -> bytes:
    """At most ``size`` bytes of a file from an offset on."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def index_paths(path: Path) -> tuple[Path, Path]:
    """Where a shard's index may be stored: beside the shard, and in the user's cache folder."""
    base = user_cache() / "indexes"
    name = hashlib.sha256(str(path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return path.with_name(path.name + ".index"), base / f"{name}.index"


def read_tar_index(path: Path) -> ShardIndex:
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
            listed = json.loads(metadata["leftovers"])
            leftovers = tuple(Leftover(str(what), int(n), str(name), str(remedy)) for what, n, name, remedy in listed)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    well_formed = members.dtype == np.int64 and members.shape == (len(keys), len(KINDS), 2)
    if not well_formed or not all(isinstance(key, str) for key in keys) or not members_fit(members, stamp[0]):
        return None
    return ShardIndex(path, keys, members, str(metadata.get("sha256")), stamp, faults, leftovers)


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
    metadata |= {"faults": json.dumps(index.faults), "leftovers": json.dumps([astuple(x) for x in index.leftovers])}
    for index_path in index_paths(index.path):
        try:
            write_whole(index_path, lambda to: save_file(tensors, to, metadata=metadata))
            return
        except Exception:  # a full disk or a missing permission, for which safetensors has errors of its own
            continue
