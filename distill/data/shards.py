"""WebDataset shards as an addressable data set: sample i is a place in a tar file.

A tar file is a stream; training wants to open sample 1,234,567 directly, resume in the middle of an epoch
and match each sample with row i of a teacher's cache. So each shard gets an index, the offset and size of
every member that matters, kept beside it as ``SHARD.tar.index`` (a safetensors file) and rebuilt when the
shard's size or modification time has changed.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.files import digest, write_whole

IMAGE = frozenset({"jpg", "jpeg", "png", "webp"})
KINDS = ("image", "txt", "json")  # the columns of an index
VERSION = "1"
OPEN_FILES = 64  # far below the usual limit of 1,024 descriptors, whatever the number of shards


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one shard are.

    Attributes:
        path: the shard.
        keys: one name a sample, in file order.
        members: [n, 3, 2] int64: (offset, size) of the image, the .txt and the .json; size −1 where absent.
        sha256: of the whole shard.
    """

    path: Path
    keys: tuple[str, ...]
    members: np.ndarray
    sha256: str

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Sample:
    """The raw bytes of one sample; what is absent is None."""

    key: str
    shard: Path
    image: bytes | None
    txt: bytes | None
    json: bytes | None

    @property
    def where(self) -> str:
        """How an error message names it."""
        return f"sample '{self.key}' of {self.shard}"


def expand(specs: Iterable[str]) -> list[Path]:
    """The shards that brace notation, folders and files name, in order.

    Raises:
        UserError: if one does not exist, is a remote address, or a folder holds no ``.tar``.
    """
    paths: list[Path] = []
    for spec in specs:
        if "://" in spec or spec.startswith("pipe:"):
            raise UserError(
                f"'{spec}' is a remote stream, and training here addresses samples in local files.",
                "Copy the shards to a local or mounted folder and name that.",
            )
        for path in matches(spec):
            if path.is_dir():
                inside = sorted(path.glob("*.tar"))
                if not inside:
                    raise UserError(f"The folder {path} holds no .tar shard.", "Name the folder that does.")
                paths += inside
            elif path.is_file():
                paths.append(path)
            else:
                raise UserError(f"The shard {path} does not exist.", "Correct data.train or data.eval.")
    repeated = {str(p) for p in paths if paths.count(p) > 1}
    if repeated:
        raise UserError(f"The shard {sorted(repeated)[0]} is named twice.", "Name each shard once.")
    return paths


def matches(spec: str) -> list[Path]:
    """The paths that a specification stands for: itself if it exists, else its braces and wildcards expanded."""
    import braceexpand

    if Path(spec).exists():
        return [Path(spec)]
    try:
        names = list(braceexpand.braceexpand(spec))
    except ValueError as error:
        raise UserError(f"The braces of '{spec}' are not balanced.", "Write shard-{000000..000009}.tar.") from error
    return [Path(found) for name in names for found in (sorted(glob.glob(name)) or [name])]


def build_index(path: Path) -> ShardIndex:
    """Read a shard's headers from end to end.

    Raises:
        UserError: if it is no tar file, is cut off, or holds no sample.
    """
    rows: dict[str, list[tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                split = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]*)", member.name)
                if not member.isfile() or not split:
                    continue
                kind = kind_of(split[2].lower())
                if kind is None:
                    continue
                row = rows.setdefault(split[1], [(0, -1)] * len(KINDS))
                if row[kind][1] >= 0:
                    raise UserError(
                        f"{path} holds two {KINDS[kind]} members for the sample '{split[1]}'.",
                        "Give every sample its own key and pack the shard again.",
                    )
                row[kind] = (member.offset_data, member.size)
            # tarfile takes any damaged header for the end of the archive; the real end is a block of zeros.
            if not is_end(path, tar.offset):
                raise tarfile.ReadError("it has no end-of-archive mark where its last member ends")
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"The shard {path} is empty, damaged or no tar file: {error}.", "Copy or pack it again."
        ) from error
    if not rows:
        raise UserError(
            f"The shard {path} holds no sample: no member is named KEY.jpg, KEY.png, KEY.webp, KEY.txt or KEY.json.",
            "See the README on what a shard looks like.",
        )
    return ShardIndex(path, tuple(rows), np.array(list(rows.values()), dtype=np.int64), digest(path))


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


def read_index(path: Path) -> ShardIndex:
    """A shard's index: the one beside it if it still fits the shard, else a new one, kept if it can be."""
    from safetensors import SafetensorError, safe_open

    stat = path.stat()
    stamp = {"version": VERSION, "size": str(stat.st_size), "mtime_ns": str(stat.st_mtime_ns)}
    beside = path.with_name(path.name + ".index")
    try:
        with safe_open(beside, framework="numpy") as file:
            metadata = file.metadata() or {}
            if stamp.items() <= metadata.items():
                keys = tuple(json.loads(file.get_tensor("keys").tobytes()))
                return ShardIndex(path, keys, file.get_tensor("members"), metadata["sha256"])
    except (OSError, SafetensorError, ValueError, KeyError):
        pass  # absent, torn or of another make: an index can always be made again
    index = build_index(path)
    save_index(index, beside, stamp)
    return index


def save_index(index: ShardIndex, path: Path, stamp: dict[str, str]) -> None:
    """Keep an index for the next time. A read-only folder just means that there is a next scan."""
    from safetensors.numpy import save_file

    keys = np.frombuffer(json.dumps(index.keys).encode(), dtype=np.uint8)
    tensors: dict[str, Any] = {"members": index.members, "keys": keys}
    if os.access(path.parent, os.W_OK):
        write_whole(path, lambda to: save_file(tensors, to, metadata=stamp | {"sha256": index.sha256}))


class Shards:
    """Samples by number, over any number of shards.

    Attributes:
        indexes: one :class:`ShardIndex` a shard.
        counts: [shards] samples in each.
    """

    def __init__(self, indexes: Sequence[ShardIndex]) -> None:
        self.indexes = list(indexes)
        self.counts = np.array([len(index) for index in self.indexes], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._files: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def of(cls, specs: Iterable[str]) -> Shards:
        """The shards that ``specs`` name; see :func:`expand`."""
        return cls([read_index(path) for path in expand(specs)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, i: int) -> tuple[int, int]:
        """Sample number → (shard number, row in that shard)."""
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        return shard, i - int(self.starts[shard])

    def key(self, i: int) -> str:
        shard, row = self.locate(i)
        return self.indexes[shard].keys[row]

    def read(self, i: int, kinds: Sequence[str] = KINDS) -> Sample:
        """The members of sample i that ``kinds`` names."""
        shard, row = self.locate(i)
        index = self.indexes[shard]
        parts = {kind: self._member(shard, index.members[row, k]) for k, kind in enumerate(KINDS) if kind in kinds}
        return Sample(index.keys[row], index.path, parts.get("image"), parts.get("txt"), parts.get("json"))

    def missing(self, *kinds: str) -> list[tuple[Path, str]]:
        """(shard, key) of every sample that has none of the members named."""
        columns = [KINDS.index(kind) for kind in kinds]
        return [
            (index.path, index.keys[row])
            for index in self.indexes
            for row in np.flatnonzero((index.members[:, columns, 1] < 0).all(axis=1))
        ]

    def _member(self, shard: int, place: np.ndarray) -> bytes | None:
        offset, size = int(place[0]), int(place[1])
        if size < 0:
            return None
        data = os.pread(self._open(shard), size, offset)
        if len(data) < size:
            raise UserError(
                f"The shard {self.indexes[shard].path} has become shorter since it was indexed.",
                "Restore it, or start again.",
            )
        return data

    def _open(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self.indexes[shard].path, os.O_RDONLY)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        # A loader process opens its own descriptors.
        return self.__dict__ | {"_files": OrderedDict()}

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])
