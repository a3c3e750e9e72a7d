"""The teacher cache: outputs computed once, row-aligned with the shards, and verified wherever that is possible.

A cache folder holds ``teacher.json``, which says what the rows are of, and one safetensors file a shard. The first
output is stored as ``embeddings`` [views, n, …] with ``crc32`` [views, n], a checksum of each row; every further one
as ``OUTPUT`` and ``OUTPUT.crc32``. A checksum's bits are inverted where the image did not decode, so that no single
flipped bit turns a missing row into one that counts. A folder whose ``teacher.json`` says something else, a file that
was made under another or of a shard that has changed since, and a row whose bytes have changed are refused by naming
what differs: a wrong row is worse than none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distill.config import TeacherTable
from distill.data.checksums import ABSENT, checksum, checksums
from distill.data.identity import identity, output_shape
from distill.data.index import ShardIndex
from distill.data.shards import OPEN_FILES, Shards
from distill.data.views import Views
from distill.errors import BadSample, UserError
from distill.files import read_table, write_whole

if TYPE_CHECKING:
    from teachers import Card

Opened = dict[str, tuple[torch.Tensor, np.ndarray]]  # by output, the rows and their checksums
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SAFETENSORS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Cache:
    """One teacher's outputs for some shards.

    Attributes:
        table: the recipe's ``[[teacher]]``.
        shapes: of one sample's outputs, by name: "embedding" (P,), "logits" (C,), "tokens" (T, W).
        identity: what ``teacher.json`` must say.
    """

    def __init__(self, table: TeacherTable, card: Card, views: Views, outputs: Sequence[str] = ("embedding",)) -> None:
        self.table, self.card, self.views = table, card, views
        self.shapes = {name: output_shape(card, table.image_size, name) for name in outputs}
        self.identity = identity(table, card, views, self.shapes)
        self.width = sum(math.prod(shape) for shape in self.shapes.values())  # numbers a row, of all outputs
        self._open: OrderedDict[int, Opened] = OrderedDict()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it holds; the first one is stored as "embeddings"."""
        return tuple(self.shapes)

    @property
    def tensors(self) -> dict[str, tuple[str, str]]:
        """By output, the names of its rows and of its checksums in a file."""
        first, *others = self.outputs
        return {first: ("embeddings", "crc32")} | {name: (name, f"{name}.crc32") for name in others}

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.table.dtype]

    def folder(self, shard: Path) -> Path:
        """Where the embeddings of a shard are: the recipe's folder, or one beside the shard."""
        if self.table.cache != "auto":
            return Path(self.table.cache)
        mark = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]
        return shard.parent / "teacher-cache" / f"{self.card.name.replace('/', '-')}-{mark}"

    def file(self, shard: Path) -> Path:
        """Where the embeddings of a shard are; see :meth:`missing` for two shards of one name."""
        return self.folder(shard) / f"{shard.stem}.safetensors"

    def bytes_of(self, images: int) -> int:
        """What the embeddings of so many images take on disk."""
        return images * self.table.views * (self.width * self.dtype.itemsize + 4 * len(self.shapes))

    def missing(self, shards: Shards) -> list[ShardIndex]:
        """The shards that still have to be embedded.

        Raises:
            UserError: if the folder holds the embeddings of something else.
        """
        files = [self.file(index.path) for index in shards.indexes]
        if len(set(files)) < len(files):
            raise UserError(
                f"Two shards of one name would share a file of the teacher cache {self.table.cache}.",
                'Rename one of them, or set teacher.N.cache = "auto": then each cache is beside its shards.',
            )
        made = {
            folder: self.mark(note["weights"]) if (note := self._note_of(folder)) else ""
            for folder in {file.parent for file in files}
        }
        return [
            index
            for index, file in zip(shards.indexes, files, strict=True)
            if not self._holds(index, file, made[file.parent])
        ]

    def read_note(self, folder: Path) -> dict[str, Any]:
        """What a cache folder's ``teacher.json`` says; empty for a new folder.

        Raises:
            UserError: if it is damaged, or missing beside embeddings.
        """
        note = folder / "teacher.json"
        if not note.is_file() and not any(folder.glob("*.safetensors")):
            return {}
        try:
            found = read_table(note, json.loads)
            if not isinstance(found.get("weights"), str):
                raise ValueError("it names no weights")
        except ValueError as error:
            raise UserError(f"{note} is missing or damaged: {error}.", f"Remove the folder {folder}.") from error
        return found

    def weights(self, shards: Shards) -> str:
        """The fingerprint of the weights that the embeddings of some shards were made with.

        Raises:
            UserError: if they were not made with the same.
        """
        folders = {self.folder(shards.indexes.path(k)) for k in range(len(shards.indexes))}
        found = {str(self.read_note(folder).get("weights", "")): folder for folder in sorted(folders)}
        if len(found) > 1:
            one, other, *_ = found.values()
            raise UserError(
                f"The teacher caches {one} and {other} were made with different weights of '{self.card.name}'.",
                "Remove the one that was made with others than yours.",
            )
        return next(iter(found))

    def mark(self, weights: str) -> str:
        """What each file carries of what it was made with."""
        return hashlib.sha256(json.dumps([self.identity, weights], sort_keys=True).encode()).hexdigest()

    def _note_of(self, folder: Path) -> dict[str, Any]:
        """What a folder's ``teacher.json`` says, which is what this cache is of; empty for a new folder."""
        if folder.exists() and not folder.is_dir():
            raise UserError(f"The teacher cache {folder} is a file.", "Name a folder.")
        note = self.read_note(folder)
        if not note:
            return note
        usual = {"output": "embedding", "file": None, "options": "{}"}
        wanted, found = usual | self.identity, usual | note
        differing = [key for key, value in wanted.items() if found.get(key) != value]
        if differing:
            what = ", ".join(f"{key} {found.get(key)} instead of {wanted[key]}" for key in differing)
            remedy = 'Name another folder, or set teacher.N.cache = "auto".'
            if differing == ["version"]:
                remedy = f"Another version of distill made it. Remove the folder {folder}."
            raise UserError(f"The teacher cache {folder} is of something else: {what}.", remedy)
        return note

    def _holds(self, index: ShardIndex, path: Path, made: str) -> bool:
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for pair in self.tensors.values() for name in pair]
                slices = {name: file.get_slice(name) for name in names}
                found = {name: (list(of.get_shape()), of.get_dtype()) for name, of in slices.items()}
                said = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise UserError(f"The cached embeddings {path} are damaged: {error}.", "Remove that file.") from error
        if said.get("made") != made:
            raise UserError(
                f"The cached embeddings {path} were not made with what {path.parent / 'teacher.json'} says.",
                "Remove that file; or the folder, if it is so with all of them.",
            )
        rows = [self.table.views, len(index)]
        expected: dict[str, tuple[list[int], str]] = {}
        for output, (name, sums) in self.tensors.items():
            expected |= {name: ([*rows, *self.shapes[output]], SAFETENSORS[self.dtype]), sums: (rows, "I32")}
        same_shapes = all(found[name][0] == expected[name][0] for name, _ in self.tensors.values())
        if said.get("shard") != index.sha256 or not same_shapes:
            raise UserError(
                f"The cached embeddings {path} are of another {index.path.name}: its content has changed.",
                "Remove that file.",
            )
        if found != expected:
            raise UserError(f"The cached embeddings {path} are damaged: its header is not ours.", "Remove that file.")
        return True

    def claim(self, index: ShardIndex, weights: str) -> None:
        """Make ready to write a shard's embeddings.

        Args:
            weights: the teacher's fingerprint.

        Raises:
            UserError: if the folder holds, or meanwhile has got, those of something else or of other weights.
        """
        folder = self.folder(index.path)
        found = self._note_of(folder)
        if found.get("weights", weights) != weights:
            raise UserError(
                f"The teacher cache {folder} was made with other weights of '{self.card.name}'.",
                "Remove that folder, or name another.",
            )
        if not found:
            note = json.dumps(self.identity | {"weights": weights}, indent=1) + "\n"
            self._keep(folder / "teacher.json", lambda to: to.write_text(note, encoding="utf-8"))

    def write(
        self, index: ShardIndex, outputs: Mapping[str, torch.Tensor], weights: str, absent: Sequence[int] = ()
    ) -> None:
        """Keep a shard's outputs, by name [views, n, …].

        Args:
            index: of the shard.
            outputs: all of the cache's.
            weights: the teacher's fingerprint.
            absent: the rows that have no output.

        Raises:
            UserError: if they cannot be written, such as to a disk that is full; nothing is left of the file then.
        """
        tensors: dict[str, torch.Tensor] = {}
        for output, (name, sums_name) in self.tensors.items():
            sums = checksums(outputs[output])
            sums[:, list(absent)] ^= ABSENT
            # As signed numbers, since safetensors' unsigned types are not torch's.
            tensors |= {name: outputs[output], sums_name: torch.from_numpy(sums.view(np.int32))}
        metadata, path = {"shard": index.sha256, "made": self.mark(weights)}, self.file(index.path)
        self._keep(path, lambda to: save_file(tensors, to, metadata=metadata))

    def _keep(self, path: Path, write: Callable[[Path], object]) -> None:
        try:
            write_whole(path, write)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path} could not be written: {error}.",
                "Make room, or name a folder you may write to, and start again: what is complete is kept.",
            ) from error

    def row(self, shards: Shards, i: int, view: int) -> dict[str, torch.Tensor]:
        """The cached outputs of one view of sample i, float32, by name: "embedding" [P].

        Raises:
            BadSample: if it has none, for its image did not decode.
            UserError: if its bytes are not those that were written.
        """
        shard, row = shards.locate(i)
        path = shards.indexes.path(shard)
        found: dict[str, torch.Tensor] = {}
        for output, (rows, sums) in self._opened(shard, self.file(path)).items():
            value = rows[view, row]
            difference = checksum(value) ^ int(sums[view, row])
            if difference == ABSENT:
                raise BadSample(str(path), shards.key(i), "the teacher's cache has no embedding of it")
            if difference:
                raise UserError(
                    f"The cached embeddings {self.file(path)} are damaged: row {row} of view {view} is not what was "
                    "written.",
                    "Remove that file, and have the disk checked.",
                )
            found[output] = value.float()
        return found

    def _opened(self, shard: int, path: Path) -> Opened:
        """A file's rows, which stay on disk until they are read, and their checksums."""
        if shard not in self._open:
            try:
                file = safe_open(path, framework="pt")
                opened = {
                    output: (file.get_tensor(name), file.get_tensor(sums).numpy().view(np.uint32))
                    for output, (name, sums) in self.tensors.items()
                }
            except (OSError, SafetensorError) as error:
                raise UserError(f"The cached embeddings {path} are damaged: {error}.", "Remove that file.") from error
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)
            self._open[shard] = opened
        self._open.move_to_end(shard)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        # A loader process opens its own files.
        return self.__dict__ | {"_open": OrderedDict()}
