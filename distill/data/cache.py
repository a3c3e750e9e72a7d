"""The teacher cache: teacher outputs computed once, stored row by row in the order of the shards, with checksums.

A cache folder holds ``teacher.json``, the identity of the outputs (teacher, preprocessing, views, weights), and one
safetensors file for each shard. The first output is stored as ``embeddings`` [views, n, …] with ``crc32`` [views, n],
a checksum of each row; every further one as ``OUTPUT`` and ``OUTPUT.crc32``. If an image did not decode, all bits of
its checksum are inverted, so that no single flipped bit turns a missing row into a valid one.

Because a wrong row would silently spoil the training, these raise an error that names the difference: a folder with
another identity, a file that was written with another identity or for a shard that has changed since, and a row whose
bytes have changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distill.config import TeacherTable
from distill.data.cache_rows import CacheRows
from distill.data.checksums import ABSENT, checksum, checksums
from distill.data.identity import identity, output_shape
from distill.data.index import ShardIndex
from distill.data.shards import Shards
from distill.data.views import Views
from distill.errors import BadSample, UserError
from distill.files import read_table, write_whole

if TYPE_CHECKING:
    from teachers import Card

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SAFETENSORS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Cache:
    """The cached outputs of one teacher.

    Attributes:
        table: the recipe's ``[[teacher]]`` table.
        card, views: the teacher's card, and how views are drawn.
        shapes: the shapes of one sample's outputs, by name: "embedding" (P,), "logits" (C,), "tokens" (T, W).
        identity: the values that ``teacher.json`` must have.
        width: the numbers in one row of all outputs together.
    """

    def __init__(self, table: TeacherTable, card: Card, views: Views, outputs: Sequence[str] = ("embedding",)) -> None:
        self.table, self.card, self.views = table, card, views
        self.shapes = {name: output_shape(card, table.image_size, name) for name in outputs}
        self.identity = identity(table, card, views, self.shapes)
        self.width = sum(math.prod(shape) for shape in self.shapes.values())
        self._rows: tuple[Shards, CacheRows] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs; the first one is stored as "embeddings"."""
        return tuple(self.shapes)

    @property
    def tensors(self) -> dict[str, tuple[str, str]]:
        """By output, the names of the tensors with its rows and with its checksums in a file."""
        first, *others = self.outputs
        return {first: ("embeddings", "crc32")} | {name: (name, f"{name}.crc32") for name in others}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stored rows."""
        return DTYPES[self.table.dtype]

    def folder(self, shard: Path) -> Path:
        """The cache folder for a shard: the one in the recipe, or for "auto" one beside the shard."""
        if self.table.cache != "auto":
            return Path(self.table.cache)
        return shard.parent / "teacher-cache" / f"{self.card.name.replace('/', '-')}-{self._suffix}"

    @cached_property
    def _suffix(self) -> str:
        """What tells the folders of caches of the same teacher with different settings apart."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    def file(self, shard: Path) -> Path:
        """The cache file for a shard; :meth:`missing` refuses two shards with the same file."""
        return self.folder(shard) / f"{shard.stem}.safetensors"

    def bytes_of(self, images: int) -> int:
        """The size on disk of the outputs for so many images, in bytes."""
        return images * self.table.views * (self.width * self.dtype.itemsize + 4 * len(self.shapes))

    def missing(self, shards: Shards) -> list[ShardIndex]:
        """The shards whose outputs are not in the cache yet.

        Raises:
            UserError: if a cache folder or file has another identity or is damaged, or two shards share a file.
        """
        files = [self.file(index.path) for index in shards.indexes]
        if len(set(files)) < len(files):
            raise UserError(
                f"Two shards of one name would share a file of the teacher cache {self.table.cache}.",
                'Rename one of them, or set teacher.N.cache = "auto": then each cache is beside its shards.',
            )
        written_with = {
            folder: self.identity_hash(teacher["weights"]) if (teacher := self._checked_teacher(folder)) else ""
            for folder in {file.parent for file in files}
        }
        return [
            index
            for index, file in zip(shards.indexes, files, strict=True)
            if not self._holds(index, file, written_with[file.parent])
        ]

    def read_teacher(self, folder: Path) -> dict[str, Any]:
        """The content of a cache folder's ``teacher.json``; empty for a new folder.

        Raises:
            UserError: if it is damaged, or missing in a folder with embeddings.
        """
        path = folder / "teacher.json"
        if not path.is_file() and not any(folder.glob("*.safetensors")):
            return {}
        try:
            teacher = read_table(path, json.loads)
            if not isinstance(teacher.get("weights"), str):
                raise ValueError("it names no weights")
        except ValueError as error:
            raise UserError(f"{path} is missing or damaged: {error}.", f"Remove the folder {folder}.") from error
        return teacher

    def weights(self, shards: Shards) -> str:
        """The fingerprint of the weights with which the outputs for some shards were computed.

        Raises:
            UserError: if different cache folders were computed with different weights.
        """
        folders = {self.folder(shards.indexes.path(k)) for k in range(len(shards.indexes))}
        by_weights = {str(self.read_teacher(folder).get("weights", "")): folder for folder in sorted(folders)}
        if len(by_weights) > 1:
            first, second, *_ = by_weights.values()
            raise UserError(
                f"The teacher caches {first} and {second} were made with different weights of '{self.card.name}'.",
                "Remove the one that was not made with the weights you use.",
            )
        return next(iter(by_weights))

    def identity_hash(self, weights: str) -> str:
        """A hash of the identity and the weights, stored in the metadata of each file."""
        return hashlib.sha256(json.dumps([self.identity, weights], sort_keys=True).encode()).hexdigest()

    def _checked_teacher(self, folder: Path) -> dict[str, Any]:
        """The content of ``teacher.json``, empty for a new folder; raises ``UserError`` if its identity is another."""
        if folder.exists() and not folder.is_dir():
            raise UserError(f"The teacher cache {folder} is a file.", "Name a folder.")
        teacher = self.read_teacher(folder)
        if not teacher:
            return teacher
        # Of keys that are left out.
        defaults = {"output": "embedding", "file": None, "options": "{}", "augment": None}
        expected, stored = defaults | self.identity, defaults | teacher
        differing = [key for key, value in expected.items() if stored.get(key) != value]
        if differing:
            what = ", ".join(f"{key} {stored.get(key)} instead of {expected[key]}" for key in differing)
            remedy = 'Name another folder, or set teacher.N.cache = "auto".'
            if differing == ["version"]:
                remedy = f"It was made by another version of distill. Remove the folder {folder}."
            raise UserError(f"The teacher cache {folder} does not fit this recipe: {what}.", remedy)
        return teacher

    def _holds(self, index: ShardIndex, path: Path, written_with: str) -> bool:
        """Whether a shard's file exists; raises ``UserError`` if it is not a file of this cache and shard."""
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for pair in self.tensors.values() for name in pair]
                slices = {name: file.get_slice(name) for name in names}
                stored = {name: (list(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
                metadata = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise UserError(f"The cached embeddings {path} are damaged: {error}.", "Remove that file.") from error
        if metadata.get("made") != written_with:
            raise UserError(
                f"The cached embeddings {path} were not made with what {path.parent / 'teacher.json'} says.",
                "Remove that file, or the whole folder if this is true of all its files.",
            )
        rows = [self.table.views, len(index)]
        expected: dict[str, tuple[list[int], str]] = {}
        for output, (name, sums) in self.tensors.items():
            expected |= {name: ([*rows, *self.shapes[output]], SAFETENSORS[self.dtype]), sums: (rows, "I32")}
        same_shapes = all(stored[name][0] == expected[name][0] for name, _ in self.tensors.values())
        if metadata.get("shard") != index.sha256 or not same_shapes:
            raise UserError(
                f"The cached embeddings {path} are those of another {index.path.name}: its content has changed.",
                "Remove that file.",
            )
        if stored != expected:
            what = "its tensors have unexpected shapes or types"
            raise UserError(f"The cached embeddings {path} are damaged: {what}.", "Remove that file.")
        return True

    def claim(self, index: ShardIndex, weights: str) -> None:
        """Write ``teacher.json`` if it is missing, before a shard's outputs are written.

        Args:
            index: the index of the shard.
            weights: the teacher's fingerprint.

        Raises:
            UserError: if the folder has outputs of another identity or of other weights, also if another process
                has written them since :meth:`missing` was called.
        """
        folder = self.folder(index.path)
        teacher = self._checked_teacher(folder)
        if teacher.get("weights", weights) != weights:
            raise UserError(
                f"The teacher cache {folder} was made with other weights of '{self.card.name}'.",
                "Remove that folder, or name another.",
            )
        if not teacher:
            text = json.dumps(self.identity | {"weights": weights}, indent=1) + "\n"
            self._write(folder / "teacher.json", lambda to: to.write_text(text, encoding="utf-8"))

    def write(
        self, index: ShardIndex, outputs: Mapping[str, torch.Tensor], weights: str, absent: Sequence[int] = ()
    ) -> None:
        """Write a shard's outputs.

        Args:
            index: the index of the shard.
            outputs: all outputs of the cache by name, [views, n, …].
            weights: the teacher's fingerprint.
            absent: the rows without an output, because their image did not decode.

        Raises:
            UserError: if they cannot be written, for example because the disk is full; then there is no file.
        """
        tensors: dict[str, torch.Tensor] = {}
        for output, (name, sums_name) in self.tensors.items():
            sums = checksums(outputs[output])
            sums[:, list(absent)] ^= ABSENT
            # As signed integers, because safetensors' unsigned types do not correspond to torch's.
            tensors |= {name: outputs[output], sums_name: torch.from_numpy(sums.view(np.int32))}
        metadata, path = {"shard": index.sha256, "made": self.identity_hash(weights)}, self.file(index.path)
        self._write(path, lambda to: save_file(tensors, to, metadata=metadata))

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        try:
            write_whole(path, write)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path} could not be written: {error}.",
                "Make room, or name a writable folder, and start again: what is complete is kept.",
            ) from error

    def row(self, shards: Shards, i: int, view: int) -> dict[str, torch.Tensor]:
        """The cached outputs of one view of sample i by name, float32, with the shapes in ``shapes``.

        Raises:
            BadSample: if it has none, because its image did not decode.
            UserError: if the bytes do not match their checksum, or the file cannot be read.
        """
        shard, row = shards.locate(i)
        outputs: dict[str, torch.Tensor] = {}
        try:
            found = self._reader(shards).read(shard, (self.table.views, int(shards.counts[shard])), view, row)
        except (OSError, ValueError) as error:
            raise self._damaged(shards, shard, error) from error
        for output, (name, sums) in self.tensors.items():
            difference = checksum(found[name]) ^ (int(found[sums]) & 0xFFFFFFFF)
            if difference == ABSENT:
                reason = "the teacher's cache has no embedding of it"
                raise BadSample(shards.indexes.name(shard), shards.key(i), reason)
            if difference:
                raise self._damaged(shards, shard, f"row {row} of view {view} is not what was written")
            outputs[output] = found[name].float()
        return outputs

    def _damaged(self, shards: Shards, shard: int, what: object) -> UserError:
        file = self.file(shards.indexes.path(shard))
        return UserError(f"The cached embeddings {file} are damaged: {what}.", "Remove that file, and check the disk.")

    def _reader(self, shards: Shards) -> CacheRows:
        """Reads the cache files of some shards; kept for the shards that were asked for last."""
        if self._rows is None or self._rows[0] is not shards:
            tensors: dict[str, tuple[str, torch.dtype, tuple[int, ...]]] = {}
            for output, (name, sums) in self.tensors.items():
                tensors |= {name: (SAFETENSORS[self.dtype], self.dtype, self.shapes[output])}
                tensors |= {sums: ("I32", torch.int32, ())}
            self._rows = (shards, CacheRows(lambda k: str(self.file(shards.indexes.path(k))), tensors))
        return self._rows[1]

    def __getstate__(self) -> dict[str, Any]:
        # Open files are not pickled: each loader process opens its own.
        return self.__dict__ | {"_rows": None}
