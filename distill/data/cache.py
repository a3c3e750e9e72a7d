"""The teacher cache: embeddings computed once, row-aligned with the shards.

A cache folder holds ``teacher.json``, which says what the embeddings are of, and one safetensors file a
shard with ``embeddings`` [views, n, P]. A folder whose ``teacher.json`` says something else, or a file
whose shard has changed since, is refused by naming what differs: a stale embedding is worse than none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from distill.config import Teacher as TeacherTable
from distill.data.shards import ShardIndex, Shards
from distill.data.views import Views, decode
from distill.errors import UserError
from distill.files import write_text, write_whole

if TYPE_CHECKING:
    from teachers import Card, Teacher

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BATCH = 64  # images a teacher forward: enough to keep any device busy, little enough for any memory


def identity(table: TeacherTable, card: Card, views: Views, logits: bool) -> dict[str, Any]:
    """Everything a cached embedding depends on besides the weights and the image."""
    output = {"output": "logits"} if logits else {}
    return output | {
        "version": 1,
        "teacher": card.name,
        "arch": card.arch,
        "image_size": table.image_size or card.image_size,
        "mean": list(card.mean),
        "std": list(card.std),
        "interpolation": card.interpolation,
        "views": table.views,
        "crop": list(views.crop) if table.views > 1 else None,
        "flip": views.flip if table.views > 1 else None,
        "dtype": table.dtype,
        "width": card.classes if logits else card.width,
    }


class Cache:
    """One teacher's embeddings of some shards.

    Attributes:
        table: the recipe's ``[[teacher]]``.
        logits: whether it holds the teacher's logits [n, classes] instead of its embeddings [n, P].
        identity: what ``teacher.json`` must say.
    """

    def __init__(self, table: TeacherTable, card: Card, views: Views, logits: bool = False) -> None:
        self.table, self.card, self.views, self.logits = table, card, views, logits
        self.identity = identity(table, card, views, logits)
        self.width: int = self.identity["width"]
        self._open: dict[int, Any] = {}

    def folder(self, shard: Path) -> Path:
        """Where the embeddings of a shard are: the recipe's folder, or one beside the shard."""
        if self.table.cache != "auto":
            return Path(self.table.cache)
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return shard.parent / "teacher-cache" / f"{self.table.name.replace('/', '-')}-{digest[:12]}"

    def file(self, shard: Path) -> Path:
        """Where the embeddings of a shard are; see :meth:`missing` for two shards of one name."""
        return self.folder(shard) / f"{shard.stem}.safetensors"

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
        for folder in {file.parent for file in files}:
            self._check_folder(folder)
        return [index for index in shards.indexes if not self._holds(index)]

    def read_note(self, folder: Path) -> dict[str, Any]:
        """What a cache folder's ``teacher.json`` says; empty for a new folder.

        Raises:
            UserError: if it is damaged, or missing beside embeddings.
        """
        note = folder / "teacher.json"
        if not note.is_file() and not any(folder.glob("*.safetensors")):
            return {}
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{note} is missing or damaged: {error}.", f"Remove the folder {folder}.") from error
        return dict(found)

    def weights(self, shards: Shards) -> str:
        """SHA-256 of the weights that the embeddings of some shards were made with."""
        return str(self.read_note(self.folder(shards.indexes[0].path)).get("weights", ""))

    def _check_folder(self, folder: Path) -> None:
        found = self.read_note(folder)
        if not found:
            return
        wanted = {"output": "embedding"} | self.identity
        found = {"output": "embedding"} | found
        differing = [key for key, value in wanted.items() if found.get(key) != value]
        if differing:
            what = ", ".join(f"{key} {found.get(key)} instead of {wanted[key]}" for key in differing)
            raise UserError(
                f"The teacher cache {folder} is of something else: {what}.",
                'Name another folder, or set teacher.N.cache = "auto".',
            )

    def _holds(self, index: ShardIndex) -> bool:
        path = self.file(index.path)
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                shape = tuple(file.get_slice("embeddings").get_shape())
                sha256 = (file.metadata() or {}).get("shard")
        except (OSError, SafetensorError) as error:
            raise UserError(f"The cached embeddings {path} are damaged: {error}.", "Remove that file.") from error
        if sha256 != index.sha256 or shape != (self.table.views, len(index), self.width):
            raise UserError(
                f"The cached embeddings {path} are of another {index.path.name}: its content has changed.",
                "Remove that file.",
            )
        return True

    def make(self, teacher: Teacher, shards: Shards, workers: int, tick: Callable[[int], object]) -> None:
        """Embed every shard that is missing.

        Args:
            teacher: on the device it shall run on.
            shards: all of them.
            workers: loader processes.
            tick: called with the number of images done since it was last called.
        """
        weights = teacher.fingerprint()
        for index in self.missing(shards):
            folder = self.folder(index.path)
            folder.mkdir(parents=True, exist_ok=True)
            if self.read_note(folder).get("weights", weights) != weights:
                raise UserError(
                    f"The teacher cache {folder} was made with other weights of '{self.card.name}'.",
                    "Remove that folder, or name another.",
                )
            write_text(folder / "teacher.json", json.dumps(self.identity | {"weights": weights}, indent=1) + "\n")
            embeddings = torch.empty(self.table.views, len(index), self.width, dtype=DTYPES[self.table.dtype])
            row = 0
            for pixels in self._pixels(index, workers):
                n = len(pixels)
                out = teacher(pixels.flatten(0, 1).to(teacher.mean.device))
                embeddings[:, row : row + n] = out.view(n, self.table.views, -1).transpose(0, 1).cpu()
                row += n
                tick(n)
            if not embeddings.isfinite().all():
                raise UserError(
                    f"'{self.card.name}' gives embeddings of {index.path.name} that {self.table.dtype} cannot hold.",
                    'Set teacher.N.dtype = "fp32".',
                )
            self._write(index, embeddings)

    def _write(self, index: ShardIndex, embeddings: torch.Tensor) -> None:
        metadata = {"shard": index.sha256}
        write_whole(self.file(index.path), lambda to: save_file({"embeddings": embeddings}, to, metadata=metadata))

    def _pixels(self, index: ShardIndex, workers: int) -> Iterator[torch.Tensor]:
        """Batches [n, views, 3, s, s] uint8 of one shard, in row order."""
        side, interpolation = self.identity["image_size"], self.card.interpolation
        dataset = ViewPixels(Shards([index]), self.views, self.table.views, side, interpolation)
        yield from dataset.batches(max(1, BATCH // self.table.views), workers)

    def row(self, shards: Shards, i: int, view: int) -> torch.Tensor:
        """[P] float32: the cached embedding of one view of sample i."""
        shard, row = shards.locate(i)
        if shard not in self._open:
            path = self.file(shards.indexes[shard].path)
            self._open[shard] = safe_open(path, framework="pt").get_slice("embeddings")
        embedding: torch.Tensor = self._open[shard][view : view + 1, row : row + 1]
        return embedding[0, 0].float()

    def __getstate__(self) -> dict[str, Any]:
        # A loader process opens its own files.
        return self.__dict__ | {"_open": {}}


class ViewPixels(Dataset[torch.Tensor]):
    """Views 0 to ``count`` − 1 of every image, for an encoder: item i is [count, 3, side, side] uint8."""

    def __init__(self, shards: Shards, views: Views, count: int, side: int, interpolation: str) -> None:
        self.shards, self.views, self.count = shards, views, count
        self.side, self.interpolation = side, interpolation

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, i: int) -> torch.Tensor | UserError:  # type: ignore[override]
        try:
            sample = self.shards.read(i, ["image"])
            image = decode(sample)
        except UserError as error:  # raised in the main process: a loader process would wrap it in its traceback
            return error
        drawn = [self.views.draw(sample.key, view, image.size) for view in range(self.count)]
        return torch.stack([view.render(image, self.side, self.interpolation) for view in drawn])

    def batches(self, size: int, workers: int) -> Iterator[torch.Tensor]:
        """[≤ size, count, 3, side, side] of all images in order, loaded ahead by ``workers`` processes.

        Raises:
            UserError: at the first image that cannot be read.
        """
        for items in DataLoader(self, batch_size=size, num_workers=workers, collate_fn=list):
            for item in items:
                if isinstance(item, UserError):
                    raise item
            yield torch.stack(items)
