"""WebDataset shards as a data set with random access: any sample can be read by its number.

A tar file can only be read from its beginning. Training has to read sample 1,234,567 directly, resume in the middle of
an epoch and pair sample i with row i of a teacher cache. ``index.py`` finds the samples of one shard; this module
numbers those of many.
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
from distill.data.members import Leftover
from distill.data.shard_names import shard_paths
from distill.data.survey import Survey
from distill.errors import Bad, BadSample, UserError
from distill.files import write_whole

OPEN_FILES = 64  # far below the usual limit of 1,024 descriptors, whatever the number of shards
OPEN_INDEXES = 64
REPLACED = "the shard has been replaced since it was indexed"


@dataclass(frozen=True)
class Sample:
    """The raw bytes of one sample's members; None for a member that is absent or was not asked for.

    Attributes:
        hint: why members may be absent, as part of a sentence; "" if nothing is known of that.
    """

    key: str
    shard: str
    image: bytes | None
    txt: bytes | None
    json: bytes | None
    hint: str = ""

    @property
    def size(self) -> int:
        """Bytes of all its members together."""
        return sum(len(part) for part in (self.image, self.txt, self.json) if part is not None)

    def error(self, reason: str) -> BadSample:
        """The exception that says this sample cannot be used."""
        return BadSample(self.shard, self.key, reason)

    def lacks(self, what: str) -> BadSample:
        """The exception that says this sample cannot be used because there is no image, or no caption."""
        return self.error(f"there is no {what}{self.hint and f'; {self.hint}'}")


class Indexes(Sequence[ShardIndex]):
    """The indexes of many shards, read on demand; the most recently used ``OPEN_INDEXES`` stay in memory.

    Paths are kept in one array, because a million Python objects would take much memory in every process.

    Attributes:
        names: uint8, the bytes of all paths, joined.
        ends: [shards] int64, where in ``names`` each path ends.
        sha256: [shards, 32] uint8, the hash that each shard had when it was first indexed.
    """

    def __init__(self, names: np.ndarray, ends: np.ndarray, sha256: np.ndarray) -> None:
        self.names, self.ends, self.sha256 = names, ends, sha256
        self._loaded: OrderedDict[int, ShardIndex] = OrderedDict()

    @classmethod
    def from_paths(cls, paths: Iterable[Path], sha256: bytes | bytearray) -> Indexes:
        """The indexes of the shards with these paths.

        Args:
            sha256: the shards' hashes, 32 bytes each, joined.
        """
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
        if k not in self._loaded:
            index = read_index(self.path(k))
            if index.sha256 != self.sha256[k].tobytes().hex():
                raise BadSample(str(index.path), "", REPLACED)
            if len(self._loaded) >= OPEN_INDEXES:
                self._loaded.popitem(last=False)
            self._loaded[k] = index
        self._loaded.move_to_end(k)
        return self._loaded[k]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": OrderedDict()}


class Shards:
    """The samples of any number of shards, numbered through.

    Attributes:
        indexes: one :class:`~distill.data.index.ShardIndex` a shard.
        counts: [shards] int64, samples in each.
        faults: everything wrong with the archives; empty unless they were opened by :meth:`open`.
        leftovers: the members that belong to no sample; likewise.
    """

    def __init__(
        self,
        indexes: Sequence[ShardIndex],
        counts: np.ndarray | None = None,
        faults: Sequence[Bad] = (),
        leftovers: Sequence[Leftover] = (),
    ) -> None:
        if not isinstance(indexes, Indexes):
            hashes = b"".join(bytes.fromhex(index.sha256) for index in indexes)
            self.indexes = Indexes.from_paths((index.path for index in indexes), hashes)
        else:
            self.indexes = indexes
        self.counts = np.array([len(i) for i in indexes], dtype=np.int64) if counts is None else counts
        self.faults, self.leftovers = tuple(faults), tuple(leftovers)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._files: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def open(cls, specs: Iterable[str], strict: bool = True, quiet: bool = False) -> Shards:
        """Open shards, indexing those that have no index yet.

        Args:
            specs: names of shards; see :func:`~distill.data.shard_names.shard_paths`.
            strict: raise at the first fault of an archive; otherwise collect them in ``faults``.
            quiet: print no line about images and captions that belong to no sample.

        Raises:
            UserError: if a shard cannot be read, or none of them holds a sample.
            BadSample: if ``strict`` and an archive has a fault.
        """
        survey = Survey(shard_paths(specs))
        for path in survey.paths:
            survey.add(read_index(path), strict)
        survey.check()
        if not quiet:
            survey.warn()
        indexes = Indexes.from_paths(survey.paths, survey.sha256)
        return cls(indexes, survey.counts, survey.faults(), survey.leftovers)

    @classmethod
    def load(cls, path: Path) -> Shards:
        """Read the table of shards that :meth:`save` wrote; no shard is opened before one of its samples is read.

        Raises:
            UserError: if the table cannot be read or is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                names, ends, sha256, counts = (file.get_tensor(n) for n in ("names", "ends", "sha256", "counts"))
            if not valid_table(names, ends, sha256, counts):
                raise ValueError("it is no table of shards")
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.", "Train into another folder.") from error
        return cls(Indexes(names, ends, sha256), counts)

    def save(self, path: Path) -> None:
        """Write the table of shards: paths, hashes and numbers of samples, about 50 bytes a shard and its path."""
        from safetensors.numpy import save_file

        indexes = self.indexes
        tensors = {"names": indexes.names, "ends": indexes.ends, "sha256": indexes.sha256, "counts": self.counts}
        write_whole(path, lambda to: save_file(tensors, to))

    def subset(self, numbers: Sequence[int]) -> Shards:
        """The shards with these numbers, in this order; their samples are numbered anew from 0."""
        chosen, sha256 = list(numbers), self.indexes.sha256
        indexes = Indexes.from_paths(map(self.indexes.path, chosen), sha256[chosen].tobytes())
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
        """Read sample i from disk.

        Args:
            kinds: which of its members to read; the others are None.

        Raises:
            BadSample: if its shard cannot be read, or has changed since it was indexed.
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
        """(shard, key) of every sample without any member of these kinds."""
        columns = [KINDS.index(kind) for kind in kinds]
        for index in self.indexes:
            for row in np.flatnonzero((index.members[:, columns, 1] < 0).all(axis=1)):
                yield index.path, index.keys[row]

    def _member(self, shard: int, index: ShardIndex, key: str, span: np.ndarray) -> bytes | None:
        offset, size = int(span[0]), int(span[1])
        if size < 0:
            return None
        try:
            descriptor = self._descriptor(shard)
            stat = os.fstat(descriptor)
            if (stat.st_size, stat.st_mtime_ns) != index.stamp:
                raise BadSample(str(index.path), key, REPLACED)
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise BadSample(str(index.path), key, f"it cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise BadSample(str(index.path), key, REPLACED)
        return data

    def _descriptor(self, shard: int) -> int:
        """The shard's file descriptor; at most ``OPEN_FILES`` stay open, the most recently used ones."""
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self.indexes.path(shard), os.O_RDONLY)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        # Descriptors are not valid in another process: a loader process opens its own.
        return self.__dict__ | {"_files": OrderedDict()}

    def close(self) -> None:
        """Close all files; reading a sample opens its file again."""
        while self._files:
            os.close(self._files.popitem()[1])


def valid_table(names: np.ndarray, ends: np.ndarray, sha256: np.ndarray, counts: np.ndarray) -> bool:
    """Whether the arrays of a table of shards have the right shapes and types and point only inside each other."""
    n = len(counts)
    shapes = (names.ndim, ends.shape, sha256.shape, counts.shape) == (1, (n,), (n, 32), (n,))
    types = (names.dtype, ends.dtype, sha256.dtype, counts.dtype) == (np.uint8, np.int64, np.uint8, np.int64)
    if not (shapes and types and n):
        return False
    ascending = (ends[0] > 0) & (np.diff(ends) > 0).all() & (ends[-1] == len(names))
    return bool(ascending & (counts >= 0).all() & (counts < 2**40).all())
