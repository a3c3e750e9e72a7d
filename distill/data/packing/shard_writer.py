"""Writing samples into WebDataset shards, each complete or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import write_whole

PER_SHARD = 1000  # samples
STEMS = ("train", "val", "test")


def write_shards(folder: Path, stem: str, samples: Iterable[dict[str, Any]], per_shard: int = PER_SHARD) -> list[Path]:
    """Write samples as shards.

    Args:
        folder: where to write them; made if it does not exist.
        stem: shards are called ``STEM-000000.tar`` and so on.
        samples: see :func:`write_shard`.
        per_shard: samples in each shard but the last.

    Returns:
        The paths of all shards, in order.

    Raises:
        UserError: if a shard exists already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    remaining = iter(samples)
    while chunk := list(islice(remaining, per_shard)):
        path = folder / f"{stem}-{len(paths):06d}.tar"
        if path.exists():
            raise UserError(f"The shard {path} already exists.", "Choose another folder.")
        write_whole(path, lambda to, samples=chunk: write_shard(to, samples))  # type: ignore[misc]
        paths.append(path)
    return paths


def write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    """Write one shard with webdataset's ``TarWriter``.

    Args:
        path: of the new file.
        samples: dictionaries with ``__key__`` and one entry a member, by extension: bytes, text, or for ``json``
            anything JSON can hold.
    """
    import webdataset

    # With the same modification time for all members, packing the same samples twice gives the same bytes. The
    # encoder is off because it compresses what is called .gz, also where that is compressed already.
    with path.open("xb") as file, webdataset.TarWriter(file, mtime=0, encoder=False) as writer:
        for sample in samples:
            members = {name: encoded(value) for name, value in sample.items() if name != "__key__"}
            writer.write(members | {"__key__": sample["__key__"]})


def encoded(value: Any) -> bytes:
    """The content of a member."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()


class ShardWriter:
    """Writes samples, which are given by number, into the shards of several stems; what exists already stays.

    Args:
        folder: for the shards.
        per_shard: samples in each shard but a stem's last.
        make: from a number to the sample. It is called when a shard is full, so that no picture waits in memory.
    """

    def __init__(self, folder: Path, per_shard: int, make: Callable[[int], dict[str, Any]]) -> None:
        self.folder, self.per_shard, self.make = folder, per_shard, make
        self.waiting: dict[str, list[int]] = {}
        self.paths: dict[str, list[Path]] = {}

    def add(self, stem: str, i: int) -> None:
        """Add sample i to the shards of a stem."""
        waiting = self.waiting.setdefault(stem, [])
        waiting.append(i)
        if len(waiting) == self.per_shard:
            self.flush(stem)

    def flush(self, stem: str) -> None:
        """Write the samples that wait, if any, as the next shard of a stem."""
        waiting, paths = self.waiting.get(stem, []), self.paths.setdefault(stem, [])
        if not waiting:
            return
        path = self.folder / f"{stem}-{len(paths):06d}.tar"
        if not path.exists():
            write_whole(path, lambda to: write_shard(to, map(self.make, waiting)))
        paths.append(path)
        self.waiting[stem] = []

    def finish(self) -> list[Path]:
        """Write the last shards; returns all paths, those of training first."""
        for stem in sorted(self.waiting, key=STEMS.index):
            self.flush(stem)
        return [path for stem in STEMS for path in self.paths.get(stem, [])]
