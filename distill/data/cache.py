"""The teacher cache: teacher outputs computed once, stored row by row in the order of the shards, with checksums.

A cache folder holds ``teacher.json``, the identity of the outputs (teacher, preprocessing, what the rows are,
weights), and one safetensors file for each shard. The first output is stored as ``embeddings`` [rows, …] with
``crc32`` [rows], a checksum of each row; every further one as ``OUTPUT`` and ``OUTPUT.crc32``. What the rows of a
shard are depends on what the teacher embeds: views of its images (:mod:`distill.data.view_cache`), or its captions
(:mod:`distill.data.caption_cache`).

Because a wrong row would silently spoil the training, these raise an error that names the difference: a folder with
another identity, a file that was written with another identity or for a shard that has changed since, and a row whose
bytes have changed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from distill.config import TeacherTable
from distill.data.cache_folder import SAFETENSORS, CacheFolder
from distill.data.cache_rows import CacheRows
from distill.data.checksums import ABSENT, checksum
from distill.data.shards import Shards
from distill.errors import UserError

if TYPE_CHECKING:
    from teachers import Card, Teacher

INTEGERS = {"I64": torch.int64}


class Cache(CacheFolder):
    """The cached outputs of one teacher.

    Attributes:
        choices: the number of rows of a sample among which :meth:`compared` chooses.
    """

    choices: int

    def __init__(
        self, table: TeacherTable, card: Card, shapes: Mapping[str, tuple[int, ...]], identity: dict[str, Any]
    ) -> None:
        super().__init__(table, card, shapes, identity)
        self._rows: tuple[Shards, CacheRows] | None = None

    @abstractmethod
    def rows_per_sample(self, shards: Shards) -> float:
        """How many rows a sample has, on average over some shards."""

    @abstractmethod
    def describe(self, samples: int, rows: float) -> str:
        """The rows of so many samples, in words."""

    @abstractmethod
    def compared(
        self, shards: Shards, i: int, choice: int, teacher: Teacher
    ) -> tuple[str, dict[str, torch.Tensor], Mapping[str, torch.Tensor]]:
        """A row of sample i: its name, what is cached, and what the loaded teacher computes, [1, …].

        Args:
            choice: which row, from 0 to ``choices`` - 1.

        Raises:
            BadSample: if the sample has no such row.
        """

    def read(
        self, shards: Shards, shard: int, leading: Sequence[int], row: int, name: str
    ) -> dict[str, torch.Tensor] | None:
        """The cached outputs in one row of a shard's file by name, float32, with the shapes in ``shapes``.

        Args:
            shard: the number of the shard.
            leading: the leading sizes of its outputs; empty for one of any size.
            row: its number among all rows.
            name: how errors call it.

        Returns:
            None if the row is marked as absent.

        Raises:
            UserError: if the bytes do not match their checksum, or the file cannot be read.
        """
        outputs: dict[str, torch.Tensor] = {}
        names = [name for pair in self.tensors.values() for name in pair]
        found = self.read_tensors(shards, shard, names, leading, row)
        for output, (rows, sums) in self.tensors.items():
            difference = checksum(found[rows]) ^ (int(found[sums]) & 0xFFFFFFFF)
            if difference == ABSENT:
                return None
            if difference:
                raise self.damaged(shards, shard, f"{name} is not what was written")
            outputs[output] = found[rows].float()
        return outputs

    def read_tensors(
        self, shards: Shards, shard: int, names: Sequence[str], leading: Sequence[int], row: int
    ) -> dict[str, torch.Tensor]:
        """One row of some tensors of a shard's file, as they are stored; raises ``UserError`` if it cannot be read."""
        try:
            return self._reader(shards).read(shard, names, leading, row)
        except (OSError, ValueError) as error:
            raise self.damaged(shards, shard, error) from error

    def damaged(self, shards: Shards, shard: int, what: object) -> UserError:
        """The error that says that a shard's file is damaged."""
        file = self.file(shards.indexes.path(shard))
        return UserError(f"The cached embeddings {file} are damaged: {what}.", "Remove that file, and check the disk.")

    def _reader(self, shards: Shards) -> CacheRows:
        """Reads the cache files of some shards; kept for the shards that were asked for last."""
        if self._rows is None or self._rows[0] is not shards:
            tensors: dict[str, tuple[str, torch.dtype, tuple[int, ...]]] = {}
            for output, (name, sums) in self.tensors.items():
                tensors |= {name: (SAFETENSORS[self.dtype], self.dtype, self.shapes[output])}
                tensors |= {sums: ("I32", torch.int32, ())}
            tensors |= {name: (dtype, INTEGERS[dtype], ()) for name, dtype in self.further.items()}
            self._rows = (shards, CacheRows(lambda k: str(self.file(shards.indexes.path(k))), tensors))
        return self._rows[1]

    def __getstate__(self) -> dict[str, Any]:
        # Open files are not pickled: each loader process opens its own.
        return self.__dict__ | {"_rows": None}
