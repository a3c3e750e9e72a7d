"""The folders and files of a teacher cache, and whether they are those of a recipe; see ``distill/data/cache.py``."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distill.config import TeacherTable
from distill.data.index import ShardIndex
from distill.data.shards import Shards
from distill.errors import UserError
from distill.files import read_table, write_whole

if TYPE_CHECKING:
    from teachers import Card

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SAFETENSORS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class CacheFolder(ABC):
    """The folders and files of one teacher's cache.

    Attributes:
        table: the recipe's ``[[teacher]]`` table.
        card: the teacher's card.
        shapes: the shapes of one row's outputs, by name: "embedding" (P,), "logits" (C,), "tokens" (T, W).
        identity: the values that ``teacher.json`` must have.
        width: the numbers in one row of all outputs together.
        further: the tensors of a file besides the outputs and their checksums, with their dtypes.
    """

    further: Mapping[str, str] = {}

    def __init__(
        self, table: TeacherTable, card: Card, shapes: Mapping[str, tuple[int, ...]], identity: dict[str, Any]
    ) -> None:
        self.table, self.card, self.shapes, self.identity = table, card, dict(shapes), identity
        self.width = sum(math.prod(shape) for shape in self.shapes.values())

    @abstractmethod
    def leading(self, index: ShardIndex, stored: Mapping[str, list[int]]) -> dict[str, list[int]]:
        """The leading sizes that a shard's file must have: under "" those of the outputs, and those of ``further``.

        Args:
            index: the index of the shard.
            stored: the shapes of the tensors in its file.
        """

    def takes(self, shard: Path) -> bool:
        """Whether samples of a shard can have rows."""
        return True

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
            return Path(self.table.cache) / (self.card.modality if self.table.tower == "both" else "")
        return shard.parent / "teacher-cache" / f"{self.card.name.replace('/', '-')}-{self._suffix}"

    @cached_property
    def _suffix(self) -> str:
        """What tells the folders of caches of the same teacher with different settings apart."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]

    def file(self, shard: Path) -> Path:
        """The cache file for a shard; :meth:`missing` refuses two shards with the same file."""
        return self.folder(shard) / f"{shard.stem}.safetensors"

    def bytes_of(self, rows: float) -> int:
        """The size on disk of the outputs for so many rows, in bytes."""
        return math.ceil(rows * (self.width * self.dtype.itemsize + 4 * len(self.shapes)))

    def missing(self, shards: Shards) -> list[ShardIndex]:
        """The shards whose outputs are not in the cache yet.

        Raises:
            UserError: if a cache folder or file has another identity or is damaged, or two shards share a file.
        """
        indexes = [index for index in shards.indexes if self.takes(index.path)]
        files = [self.file(index.path) for index in indexes]
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
            for index, file in zip(indexes, files, strict=True)
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
        paths = map(shards.indexes.path, range(len(shards.indexes)))
        folders = {self.folder(path) for path in paths if self.takes(path)}
        by_weights = {str(self.read_teacher(folder).get("weights", "")): folder for folder in sorted(folders)}
        if len(by_weights) > 1:
            first, second, *_ = by_weights.values()
            raise UserError(
                f"The teacher caches {first} and {second} were made with different weights of '{self.card.name}'.",
                "Remove the one that was not made with the weights you use.",
            )
        return next(iter(by_weights), "")

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
        defaults = {"output": "embedding", "file": None, "files": None, "options": "{}", "augment": None}
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
                names = [*(name for pair in self.tensors.values() for name in pair), *self.further]
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
        leading = self.leading(index, {name: shape for name, (shape, _) in stored.items()})
        expected = {name: (leading[name], dtype) for name, dtype in self.further.items()}
        for output, (name, sums) in self.tensors.items():
            expected |= {name: ([*leading[""], *self.shapes[output]], SAFETENSORS[self.dtype])}
            expected |= {sums: (leading[""], "I32")}
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

    def write_tensors(self, index: ShardIndex, tensors: Mapping[str, torch.Tensor], weights: str) -> None:
        """Write a shard's file.

        Args:
            index: the index of the shard.
            tensors: all that belong into it, by name.
            weights: the teacher's fingerprint.

        Raises:
            UserError: if it cannot be written, for example because the disk is full; then there is no file.
        """
        metadata, path = {"shard": index.sha256, "made": self.identity_hash(weights)}, self.file(index.path)
        self._write(path, lambda to: save_file(dict(tensors), to, metadata=metadata))

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        try:
            write_whole(path, write)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path} could not be written: {error}.",
                "Make room, or name a writable folder, and start again: what is complete is kept.",
            ) from error
