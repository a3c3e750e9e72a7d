"""Where all samples of many shards are, in a few arrays, so that any of them is found without opening an index.

With small shards nearly every sample is in another shard than the one before, and opening an index takes ten times as
long as reading a sample. A run keeps the table in its folder, and all its processes map the same files into memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill.data.index import KINDS, ShardIndex

LIMIT = 128 << 20  # bytes of a table that is held in memory, about two million samples
FILES = ("members", "key_ends", "stamps")  # each as NAME.npy; the bytes of the keys are in KEYS
KEYS = "keys"


class Place(NamedTuple):
    """Where a sample is.

    Attributes:
        shard: the number of its shard.
        path: of that shard.
        key: of the sample.
        members: (offset, size) in bytes for each of ``KINDS``; size −1 where absent.
    """

    shard: int
    path: str
    key: str
    members: list[list[int]]


class Chunk(NamedTuple):
    """The part of a table that describes some consecutive shards.

    Attributes:
        members: [n, 3, 2] int64, as in :class:`~distill.data.index.ShardIndex`.
        lengths: [n] int64, of the keys in bytes.
        stamps: [shards, 2] int64.
        keys: the bytes of all keys, joined.
    """

    members: np.ndarray
    lengths: np.ndarray
    stamps: np.ndarray
    keys: bytes


class SampleTable:
    """The members and keys of all samples of some shards.

    Attributes:
        members: [samples, 3, 2] int64, as in :class:`~distill.data.index.ShardIndex`.
        key_ends: [samples] int64, where in ``keys`` each sample's key ends.
        stamps: [shards, 2] int64: size in bytes and modification time in nanoseconds that each shard had.
        keys: uint8, the bytes of all keys, joined.
        folder: from which the arrays are mapped; None if they are in memory.
    """

    def __init__(
        self, members: np.ndarray, key_ends: np.ndarray, stamps: np.ndarray, keys: np.ndarray, folder: Path | None
    ) -> None:
        self.members, self.key_ends, self.stamps, self.keys, self.folder = members, key_ends, stamps, keys, folder

    @classmethod
    def load(cls, folder: Path, samples: int, shards: int) -> SampleTable | None:
        """The table that :func:`save_table` wrote; None if there is none, or it is damaged or of other shards.

        That is no error, because everything in it is also in the shards' indexes.
        """
        try:
            # As plain arrays: reading an element of a np.memmap takes several times as long.
            members, key_ends, stamps = (np.load(folder / f"{n}.npy", mmap_mode="r").view(np.ndarray) for n in FILES)
            keys = np.memmap(folder / KEYS, dtype=np.uint8, mode="r").view(np.ndarray)
        except (OSError, ValueError, EOFError):
            return None
        shapes = (members.shape, key_ends.shape, stamps.shape) == ((samples, len(KINDS), 2), (samples,), (shards, 2))
        types = {members.dtype, key_ends.dtype, stamps.dtype} == {np.dtype(np.int64)}
        if not (shapes and types and samples and key_ends[-1] == len(keys)):
            return None
        return cls(members, key_ends, stamps, keys, folder)

    def key(self, i: int) -> str:
        start = int(self.key_ends[i - 1]) if i else 0
        return self.keys[start : int(self.key_ends[i])].tobytes().decode("utf-8", "surrogatepass")

    def stamp(self, shard: int) -> tuple[int, int]:
        size, modified = self.stamps[shard].tolist()
        return size, modified

    def __reduce__(self) -> tuple[Any, ...]:
        # Mapped arrays are mapped anew in another process, and not copied.
        if self.folder is not None:
            return SampleTable.load, (self.folder, len(self.members), len(self.stamps))
        return SampleTable, (self.members, self.key_ends, self.stamps, self.keys, None)

    def chunk(self) -> Chunk:
        """All of it, to be written by :func:`save_table`."""
        return Chunk(self.members, np.diff(self.key_ends, prepend=0), self.stamps, self.keys.tobytes())


class TableBuilder:
    """Collects the indexes of shards, in their order, as a table in memory, unless it becomes too large.

    Args:
        limit: bytes of the table from which on nothing is kept.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.left, self.chunks = limit, list[Chunk]()

    def add(self, index: ShardIndex) -> None:
        """Add the next shard."""
        if self.left < 0:
            return
        self.chunks.append(chunk_of(index))
        self.left -= sum(part.nbytes for part in self.chunks[-1][:3]) + len(self.chunks[-1].keys)
        if self.left < 0:
            self.chunks = []

    def table(self) -> SampleTable | None:
        """The table of all shards that were added; None if it would be too large."""
        if not self.chunks:
            return None
        members, lengths, stamps, keys = zip(*self.chunks, strict=True)
        key_ends = np.cumsum(np.concatenate(lengths))
        joined = np.frombuffer(b"".join(keys), dtype=np.uint8)
        return SampleTable(np.concatenate(members), key_ends, np.concatenate(stamps), joined, None)


def chunk_of(index: ShardIndex) -> Chunk:
    """The part of one shard."""
    keys = [key.encode("utf-8", "surrogatepass") for key in index.keys]
    lengths = np.array([len(key) for key in keys], dtype=np.int64)
    return Chunk(index.members, lengths, np.array([index.stamp], dtype=np.int64), b"".join(keys))


def save_table(folder: Path, chunks: Iterable[Chunk], samples: int, shards: int) -> None:
    """Write the table of some shards, part after part, so that it need not fit into memory.

    Args:
        folder: to create.
        chunks: all parts, in the order of the shards.
        samples: of all shards together.
        shards: how many there are.

    Raises:
        OSError: if it cannot be written.
        ValueError: if there are other numbers of samples or shards.
    """
    folder.mkdir()
    sample = shard = end = 0
    with ExitStack() as stack:
        members, key_ends, stamps = (stack.enter_context(open(folder / f"{name}.npy", "wb")) for name in FILES)
        keys = stack.enter_context(open(folder / KEYS, "wb"))
        for file, shape in ((members, (samples, len(KINDS), 2)), (key_ends, (samples,)), (stamps, (shards, 2))):
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int64)), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
        for chunk in chunks:
            # Not through a memory map: on a full disk, that would end the process.
            members.write(chunk.members.tobytes())
            key_ends.write((end + np.cumsum(chunk.lengths)).tobytes())
            stamps.write(chunk.stamps.tobytes())
            keys.write(chunk.keys)
            sample, shard, end = sample + len(chunk.members), shard + len(chunk.stamps), end + len(chunk.keys)
    if (sample, shard) != (samples, shards):
        raise ValueError(f"{sample} samples in {shard} shards instead of {samples} in {shards}")
