"""Embeddings of data sets: each computed once for a model, whatever the number of tasks, and kept in files.

A file's name is a hash of what its rows depend on: the model's weights, the preparation of pictures, the samples and
their order, the kind of device. So an outdated file is never read, it only takes space.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from distill.data.loading import prefetch
from distill.data.views import decode
from distill.errors import BadSample, UserError
from distill.evals.dataset import Dataset, Samples
from distill.evals.subject import Prepare, Subject
from distill.files import user_cache, write_whole
from distill.progress import progress_bar
from launch import group as processes

BATCH = 128  # images a forward
VERSION = 1
Rows = dict[str, np.ndarray]
Alter = Callable[[Image.Image, str], Image.Image]  # a picture and its key → the picture that is measured


def default_folder() -> Path:
    """Where embeddings are kept: ``DISTILL_CACHE``, or below the user's folder for caches."""
    home = os.environ.get("DISTILL_CACHE")
    return (Path(home) if home else user_cache()) / "embeddings"


class Prepared(TorchDataset[Any]):
    """The inputs of image encoders: item i is one tensor for each preparation, or the error of a bad sample."""

    def __init__(self, samples: Samples, preparations: Sequence[Prepare], alter: Alter | None) -> None:
        self.samples, self.preparations, self.alter = samples, preparations, alter

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> list[torch.Tensor] | UserError:
        try:
            sample = self.samples.read(i, ["image"])
            picture = decode(sample)
        except UserError as error:  # for the main process to raise: a loader process would wrap it in its traceback
            return error
        if self.alter is not None:
            picture = self.alter(picture, sample.key)
        return [prepare(picture) for prepare in self.preparations]


def collate(items: list[list[torch.Tensor] | UserError]) -> list[torch.Tensor] | UserError:
    """A batch, or the first error in it."""
    good = [item for item in items if not isinstance(item, UserError)]
    if len(good) < len(items):
        return next(item for item in items if isinstance(item, UserError))
    return [default_collate(list(column)) for column in zip(*good, strict=True)]


class Store:
    """Embeds data sets and texts, and keeps what it has embedded.

    With several processes, each embeds a part, and all get all rows.

    Args:
        folder: for the files; None keeps them in memory only.
        group: the processes that share the work; None for this one alone.
    """

    def __init__(self, folder: Path | None = None, group: processes.Group | None = None) -> None:
        self.folder, self.group = folder, group
        self._memory: dict[str, Rows] = {}
        self._identities: dict[int, tuple[Subject, str]] = {}
        self._names: dict[int, list[str]] = {}  # in memory, by the subject's id

    def images(self, subject: Subject, data: Dataset, alter: Alter | None = None, altered: str = "") -> Rows:
        """The outputs of a data set's images.

        Args:
            subject: the encoder.
            data: the pictures.
            alter: changes every picture before it is prepared.
            altered: the name of that change.

        Returns:
            "embedding" [n, D] unit rows and "pre_logits" [n, F], float32.

        Raises:
            BadSample: for the first picture that cannot be used.
        """
        name = self._name(subject, "images", data.identity, altered)
        return self._kept(name, lambda: self._embed_images(subject, data, alter, altered))

    def texts(self, subject: Subject, texts: Sequence[str]) -> np.ndarray:
        """[n, D] float32 unit rows of texts.

        Raises:
            UserError: if the subject embeds no texts.
        """
        name = self._name(subject, "texts", *texts)
        return self._kept(name, lambda: {"embedding": subject.texts(texts).numpy()})["embedding"]

    def _name(self, subject: Subject, *parts: str) -> str:
        known = self._identities.get(id(subject))
        if known is None:  # the subject is kept, so that no other one gets its id
            known = self._identities[id(subject)] = (subject, subject.identity())
        device = str(getattr(subject, "device", "")) or str(getattr(getattr(subject, "model", None), "device", "cpu"))
        content = json.dumps([VERSION, known[1], device.split(":")[0], *parts])
        name = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        self._names.setdefault(id(subject), []).append(name)
        return name

    def forget(self, subject: Subject) -> None:
        """Free the memory of a subject's rows; files stay."""
        for name in self._names.pop(id(subject), []):
            self._memory.pop(name, None)
        self._identities.pop(id(subject), None)

    def _kept(self, name: str, compute: Callable[[], Rows]) -> Rows:
        if name not in self._memory:
            rows = self._read(name)
            if self.group is not None:  # all processes must agree whether they compute
                rows = processes.gather_objects(rows if self.group.first else None, self.group)[0]
            if rows is None:
                rows = compute()
                self._write(name, rows)
            self._memory[name] = rows
        return self._memory[name]

    def _embed_images(self, subject: Subject, data: Dataset, alter: Alter | None, altered: str) -> Rows:
        rank, world = (self.group.rank, self.group.world) if self.group is not None else (0, 1)
        own = range(len(data) * rank // world, len(data) * (rank + 1) // world)
        batches = [own[i : i + BATCH] for i in range(0, len(own), BATCH)]
        dataset, found = Prepared(data.samples, subject.preparations(), alter), list[dict[str, torch.Tensor]]()
        label = f"embedding {data.name}{altered and f', {altered}'}"
        progress = progress_bar(label, len(own), "images") if rank == 0 else None
        error: UserError | None = None
        arguments = {"batch_sampler": batches, "collate_fn": collate}
        with closing(prefetch(dataset, subject.workers if batches else 0, False, **arguments)) as loaded:
            for batch in loaded:
                if isinstance(batch, UserError):
                    error = batch
                    break
                found.append(subject.images(batch))
                if progress is not None:
                    progress.update(len(batch[0]))
        if progress is not None:
            progress.close()
        return self._together(
            {k: torch.cat([part[k] for part in found]).numpy() for k in found[0]} if found else {}, error
        )

    def _together(self, own: Rows, error: UserError | None) -> Rows:
        """The rows of all processes; raises the first error of any of them, in all."""
        parts = [(own, error)] if self.group is None else processes.gather_objects((own, error), self.group)
        for _, failed in parts:
            if failed is not None:
                raise failed
        full = [rows for rows, _ in parts if rows]
        return {name: np.concatenate([rows[name] for rows in full]) for name in full[0]}

    def _read(self, name: str) -> Rows | None:
        from safetensors.numpy import load_file

        if self.folder is None:
            return None
        with suppress(Exception):  # a file that is missing or damaged is computed again
            return dict(load_file(self.folder / f"{name}.safetensors"))
        return None

    def _write(self, name: str, rows: Mapping[str, np.ndarray]) -> None:
        from safetensors.numpy import save_file

        if self.folder is None or (self.group is not None and not self.group.first):
            return
        contiguous = {key: np.ascontiguousarray(value) for key, value in rows.items()}
        with suppress(OSError):  # a full disk or a folder that may not be written: it is computed again next time
            write_whole(self.folder / f"{name}.safetensors", lambda to: save_file(contiguous, to))


def first_bad(error: BadSample) -> UserError:
    """What to tell a user about a bad sample."""
    return UserError(str(error), "To measure the other samples, add --skip-bad.")
