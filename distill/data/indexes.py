"""The indexes of many shards, of which few are in memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from distill.data.index import ShardIndex, read_tar_index
from distill.data.picture_lists import is_picture_list, read_list
from distill.errors import BadSample

KEPT = 1 << 18  # samples whose indexes stay in memory, about 40 MB
REPLACED = "the shard has been replaced since it was indexed"


def read_index(path: Path) -> ShardIndex:
    """The index of a shard: a tar file, or a list of pictures.

    Raises:
        UserError: if the shard cannot be read.
    """
    return read_list(path) if is_picture_list(path) else read_tar_index(path)


class Indexes(Sequence[ShardIndex]):
    """The indexes of many shards, read on demand; those of the ``KEPT`` samples used last stay in memory.

    Paths are kept in one array, because a million Python objects would take much memory in every process.

    Attributes:
        names: uint8, the bytes of all paths, joined.
        ends: [shards] int64, where in ``names`` each path ends.
        sha256: [shards, 32] uint8, the hash that each shard had when it was first indexed.
    """

    def __init__(self, names: np.ndarray, ends: np.ndarray, sha256: np.ndarray) -> None:
        self.names, self.ends, self.sha256 = names, ends, sha256
        self._loaded: OrderedDict[int, ShardIndex] = OrderedDict()
        self._kept = 0  # the number of samples in them

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

    def name(self, k: int) -> str:
        """The path of a shard."""
        start = int(self.ends[k - 1]) if k else 0
        return os.fsdecode(self.names[start : int(self.ends[k])].tobytes())

    def path(self, k: int) -> Path:
        return Path(self.name(k))

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
            while self._loaded and self._kept + len(index) > KEPT:
                self._kept -= len(self._loaded.popitem(last=False)[1])
            self._loaded[k] = index
            self._kept += len(index)
        self._loaded.move_to_end(k)
        return self._loaded[k]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": OrderedDict(), "_kept": 0}


def valid_table(names: np.ndarray, ends: np.ndarray, sha256: np.ndarray, counts: np.ndarray) -> bool:
    """Whether the arrays of a table of shards have the right shapes and types and point only inside each other."""
    n = len(counts)
    shapes = (names.ndim, ends.shape, sha256.shape, counts.shape) == (1, (n,), (n, 32), (n,))
    types = (names.dtype, ends.dtype, sha256.dtype, counts.dtype) == (np.uint8, np.int64, np.uint8, np.int64)
    if not (shapes and types and n):
        return False
    ascending = (ends[0] > 0) & (np.diff(ends) > 0).all() & (ends[-1] == len(names))
    return bool(ascending & (counts >= 0).all() & (counts < 2**40).all())
