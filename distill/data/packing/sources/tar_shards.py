"""Shards themselves: to leave out what cannot be used, to drop duplicates, to split anew."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill.config import CAPTION_KEYS
from distill.data.captions import Captions, captions_in
from distill.data.images import EXTENSIONS, is_ignored
from distill.data.index import KINDS
from distill.data.packing.folders import split_of
from distill.data.packing.row import Row
from distill.data.packing.source import Options, Source, say
from distill.data.packing.text_file import head
from distill.data.shard_names import matching_paths
from distill.data.shards import Shards
from distill.errors import BadSample

SHARD = re.compile(r"(?i)\.tar(\.\w+)?$")


class TarShards(Source):
    """A shard, a folder of shards, or a pattern of names; ``test-….tar`` and ``val-….tar`` among them are splits.

    Every member of a sample that is kept is copied as it is. Keys are kept, unless one occurs in two shards.
    """

    rank = 10
    noun = "shards"
    takes = ("captions",)

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        self.shards = Shards.open([str(path)], strict=False)
        self.paths = [self.shards.indexes.path(k) for k in range(len(self.shards.indexes))]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_file():
            return bool(SHARD.search(path.name)) or head(path)[257:262] == b"ustar"
        if path.is_dir():
            return any(SHARD.search(inside.name) and not is_ignored(inside.name) for inside in path.iterdir())
        return bool(SHARD.search(path.name)) and all(one.is_file() for one in matching_paths(str(path)))

    def rows(self) -> Iterator[Row]:
        captions = Captions(self.options.captions or CAPTION_KEYS)
        own_keys = self.keys_are_unique()
        if not own_keys:
            say(f"{self.path}: some keys occur in several shards; before each key is written the number of its shard")
        distinct = len({path.name for path in self.paths}) == len(self.paths)
        i = 0
        for k, path in enumerate(self.paths):
            further, split = further_members(path), split_of(re.split(r"[-_.\d]", path.name)[0])
            for key in self.shards.indexes[k].keys:
                about = {"members": further.get(key, {}), "shard": k}
                name = f"{path.name if distinct else path}:{key}"
                row = Row(name, about=about, split=split, key=key if own_keys else f"{k:05d}/{key}", place=i)
                try:
                    yield row.with_captions(
                        captions_in(
                            [
                                {"text": c.text, "language": c.language}
                                for c in captions.read(self.shards.read(i, KINDS[1:]))
                            ]
                        )
                    )
                except BadSample as error:
                    yield row.with_problem(error.bad.reason)
                i += 1
        for fault in self.shards.faults:
            name = Path(fault.shard).name
            yield Row(f"{name}:{fault.key}" if fault.key else name, problem=fault.reason)

    def keys_are_unique(self) -> bool:
        """Whether no key occurs twice."""
        hashes = [
            np.array([hashlib.blake2b(key.encode(), digest_size=8).digest() for key in index.keys], dtype="S8")
            for index in self.shards.indexes
        ]
        return len(np.unique(np.concatenate(hashes))) == len(self.shards)

    def stamp(self, row: Row) -> str:
        return self.shards.indexes.sha256[row.about["shard"]].tobytes().hex()

    def image(self, row: Row) -> bytes:
        data = self.shards.read(row.place, ("image",)).image
        if data is None:
            raise BadSample(row.name, row.key, "it has no image")
        return data

    def sample(self, rows: list[Row], data: bytes, extension: str) -> dict[str, Any]:
        (row,) = rows
        stored = self.shards.read(row.place, KINDS[1:])
        members = {"txt": stored.txt, "json": stored.json}
        sample = {"__key__": row.key} | {name: value for name, value in members.items() if value is not None}
        with self.paths[row.about["shard"]].open("rb") as file:
            for name, (offset, size) in row.about["members"].items():
                file.seek(offset)
                sample[name] = file.read(size)
        return sample | {extension: data}


def further_members(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """(offset, size) of the members of a shard's samples that are no picture and no caption, by key and extension."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                split = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]*)", member.name)
                tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member in memory
                if split and member.isfile() and split[2].lower() not in (*EXTENSIONS, *KINDS[1:]):
                    found.setdefault(split[1], {})[split[2]] = (member.offset_data, member.size)
    except (tarfile.TarError, ValueError, OverflowError):
        pass  # a damaged archive is among the shards' faults
    return found


SOURCE = TarShards
