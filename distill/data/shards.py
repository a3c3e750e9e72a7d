"""WebDataset shards as an addressable data set: sample i is a place in a tar file.

A tar file is a stream; training wants to open sample 1,234,567 directly, resume in the middle of an epoch and match
each sample with row i of a teacher's cache. ``index.py`` does that for one shard, this module for any number.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from distill.data.index import KINDS, ShardIndex, read_index
from distill.data.shard_names import expand
from distill.errors import Bad, BadSample, UserError
from distill.files import write_whole

OPEN_FILES = 64  # far below the usual limit of 1,024 descriptors, whatever the number of shards
OPEN_INDEXES = 64
REPLACED = "the shard has been replaced since it was indexed"


@dataclass(frozen=True)
class Sample:
    """The raw bytes of one sample; what is absent is None."""

    key: str
    shard: str
    image: bytes | None
    txt: bytes | None
    json: bytes | None

    @property
    def size(self) -> int:
        """Bytes it takes in memory."""
        return sum(len(part) for part in (self.image, self.txt, self.json) if part is not None)

    def bad(self, reason: str) -> BadSample:
        """What to raise where it cannot be used."""
        return BadSample(self.shard, self.key, reason)


class Indexes(Sequence[ShardIndex]):
    """The indexes of many shards, of which only a few are in memory at a time.

    Attributes:
        names: every path, one after the other, as bytes.
        ends: [shards] where each of them ends.
        sha256: [shards, 32] of the shards as they were indexed first.
    """

    def __init__(self, names: np.ndarray, ends: np.ndarray, sha256: np.ndarray) -> None:
        self.names, self.ends, self.sha256 = names, ends, sha256
        self._kept: OrderedDict[int, ShardIndex] = OrderedDict()

    @classmethod
    def of(cls, paths: Iterable[Path], sha256: bytes | bytearray) -> Indexes:
        """Those of shards with these paths and, one after the other, hashes of 32 bytes."""
        names = [os.fsencode(path) for path in paths]
        return cls(
            np.frombuffer(b"".join(names), dtype=np.uint8),
            np.cumsum([len(name) for name in names], dtype=np.int64),
            np.frombuffer(bytes(sha256), dtype=np.uint8).reshape(len(names), 32),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, k: int) -> Path:
        start = int(self.ends[k - 1]) if k else 0
        return Path(os.fsdecode(self.names[start : int(self.ends[k])].tobytes()))

    @overload
    def __getitem__(self, k: int) -> ShardIndex: ...
    @overload
    def __getitem__(self, k: slice) -> list[ShardIndex]: ...
    def __getitem__(self, k: int | slice) -> ShardIndex | list[ShardIndex]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        if not 0 <= k < len(self):
            raise IndexError(k)
        if k not in self._kept:
            index = read_index(self.path(k))
            if index.sha256 != self.sha256[k].tobytes().hex():
                raise BadSample(str(index.path), "", REPLACED)
            if len(self._kept) >= OPEN_INDEXES:
                self._kept.popitem(last=False)
            self._kept[k] = index
        self._kept.move_to_end(k)
        return self._kept[k]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}


class Shards:
    """Samples by number, over any number of shards.

    Attributes:
        indexes: one :class:`~distill.data.index.ShardIndex` a shard.
        counts: [shards] samples in each.
        faults: all that is wrong with the archives; known to those that :meth:`of` has just looked through.
    """

    def __init__(
        self,
        indexes: Sequence[ShardIndex],
        counts: np.ndarray | None = None,
        faults: Sequence[Bad] = (),
    ) -> None:
        if not isinstance(indexes, Indexes):
            hashes = b"".join(bytes.fromhex(index.sha256) for index in indexes)
            self.indexes = Indexes.of((index.path for index in indexes), hashes)
        else:
            self.indexes = indexes
        self.counts = np.array([len(i) for i in indexes], dtype=np.int64) if counts is None else counts
        self.faults = tuple(faults)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._files: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def of(cls, specs: Iterable[str], strict: bool = True) -> Shards:
        """The shards that ``specs`` name; see :func:`expand`.

        Args:
            strict: refuse archives with anything wrong, instead of keeping their other samples.

        Raises:
            UserError: if one cannot be read, no sample is left, or (strict) one is damaged.
        """
        paths = expand(specs)
        counts, hashes, found = np.zeros(len(paths), dtype=np.int64), bytearray(), list[tuple[int, ShardIndex]]()
        for k, path in enumerate(paths):
            index = read_index(path)
            if strict and index.faults:
                raise BadSample(str(path), *index.faults[0])
            counts[k] = len(index)
            hashes += bytes.fromhex(index.sha256)
            if index.faults:
                found.append((k, index))
        if not counts.sum():
            why = f": {found[0][1].faults[0][1]}" if found else ""
            raise UserError(
                f"The shard {paths[0]} holds no sample{', nor do the others' * (len(paths) > 1)}{why}.",
                "See the README on what a shard looks like.",
            )
        return cls(Indexes.of(paths, hashes), counts, faults_of(found, counts))

    @classmethod
    def load(cls, path: Path) -> Shards:
        """What :meth:`save` wrote; the table stays on disk until it is looked at.

        Raises:
            UserError: if it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                names, ends, sha256, counts = (file.get_tensor(n) for n in ("names", "ends", "sha256", "counts"))
            if not whole(names, ends, sha256, counts):
                raise ValueError("it is no table of shards")
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.", "Train into another folder.") from error
        return cls(Indexes(names, ends, sha256), counts)

    def save(self, path: Path) -> None:
        """Write which shards these are, and what their indexes said: 100 bytes a shard and its name."""
        from safetensors.numpy import save_file

        of = self.indexes
        tensors = {"names": of.names, "ends": of.ends, "sha256": of.sha256, "counts": self.counts}
        write_whole(path, lambda to: save_file(tensors, to))

    def only(self, numbers: Sequence[int]) -> Shards:
        """Some of the shards."""
        of, chosen = self.indexes, list(numbers)
        indexes = Indexes.of(map(of.path, chosen), of.sha256[chosen].tobytes())
        return Shards(indexes, self.counts[chosen])

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
        """The members of sample i that ``kinds`` names.

        Raises:
            BadSample: if its shard is not what was indexed any more.
        """
        shard, row = self.locate(i)
        try:
            index = self.indexes[shard]
        except BadSample as error:
            raise BadSample(error.bad.shard, f"#{row}", error.bad.reason) from error
        except UserError as error:
            raise BadSample(str(self.indexes.path(shard)), f"#{row}", "the shard is gone") from error
        if row >= len(index):
            raise BadSample(str(index.path), f"#{row}", REPLACED)
        key = index.keys[row]
        wanted = [k for k, kind in enumerate(KINDS) if kind in kinds]
        parts = {KINDS[k]: self._member(shard, index, key, index.members[row, k]) for k in wanted}
        return Sample(key, str(index.path), parts.get("image"), parts.get("txt"), parts.get("json"))

    def missing(self, *kinds: str) -> Iterator[tuple[Path, str]]:
        """(shard, key) of every sample that has none of the members named."""
        columns = [KINDS.index(kind) for kind in kinds]
        for index in self.indexes:
            for row in np.flatnonzero((index.members[:, columns, 1] < 0).all(axis=1)):
                yield index.path, index.keys[row]

    def _member(self, shard: int, index: ShardIndex, key: str, place: np.ndarray) -> bytes | None:
        offset, size = int(place[0]), int(place[1])
        if size < 0:
            return None
        try:
            descriptor = self._open(shard)
            stat = os.fstat(descriptor)
            if (stat.st_size, stat.st_mtime_ns) != index.stamp:
                raise BadSample(str(index.path), key, REPLACED)
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise BadSample(str(index.path), key, f"it cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise BadSample(str(index.path), key, REPLACED)
        return data

    def _open(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self.indexes.path(shard), os.O_RDONLY)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        # A loader process opens its own descriptors.
        return self.__dict__ | {"_files": OrderedDict()}

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


def whole(names: np.ndarray, ends: np.ndarray, sha256: np.ndarray, counts: np.ndarray) -> bool:
    """Whether the parts of a table of shards fit together, so that nothing outside of them can be looked at."""
    n = len(counts)
    shapes = (names.ndim, ends.shape, sha256.shape, counts.shape) == (1, (n,), (n, 32), (n,))
    types = (names.dtype, ends.dtype, sha256.dtype, counts.dtype) == (np.uint8, np.int64, np.uint8, np.int64)
    if not (shapes and types and n):
        return False
    rising = (ends[0] > 0) & (np.diff(ends) > 0).all() & (ends[-1] == len(names))
    return bool(rising & (counts >= 0).all() & (counts < 2**40).all())


def faults_of(found: Sequence[tuple[int, ShardIndex]], counts: np.ndarray) -> list[Bad]:
    """``Shards.faults``: a shard that is cut off is taken to miss what the others have on average more than it."""
    whole = np.ones(len(counts), dtype=bool)
    whole[[k for k, index in found if index.cut]] = False
    usual = float(counts[whole].mean()) if whole.any() else 0.0
    return [
        Bad(str(index.path), key, reason, 0 if key else max(0, round(usual - len(index)) - 1))
        for _, index in found
        for key, reason in index.faults
    ]
