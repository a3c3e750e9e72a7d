"""Shards themselves: to leave out what cannot be used, to drop duplicates, to split anew."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.captions import Captions
from distill.data.images import EXTENSIONS, is_ignored
from distill.data.index import KINDS, read_tar_index
from distill.data.packing.folders import split_of
from distill.data.packing.row import Row
from distill.data.packing.source import Options, Source, say
from distill.data.packing.text_file import head
from distill.data.sample import Sample
from distill.data.shard_names import matching_paths, shard_paths
from distill.data.shards import Indexes, Shards
from distill.data_table import CAPTION_KEYS
from distill.errors import BadSample

SHARD = re.compile(r"(?i)\.tar(\.\w+)?$")
NO_SAMPLE = "it belongs to no sample"

Span = tuple[int, int]  # offset and size in bytes
Members = dict[str, dict[str, Span]]  # by key and by what follows its dot


class TarShards(Source):
    """A shard, a folder of shards, or a pattern of names; ``test-….tar`` and ``val-….tar`` among them are splits.

    Every member of a sample that is kept is copied as it is. Keys are kept, unless one occurs in two shards. Where a
    picture and its caption belong to no sample because of a further dot in their names, they become one.
    """

    rank = 10
    noun = "shards"
    takes = ("captions",)

    def __init__(self, path: Path, options: Options) -> None:
        super().__init__(path, options)
        self.paths = shard_paths([str(path)])
        hashes, counts = bytearray(), list[int]()
        for shard in self.paths:
            index = read_tar_index(shard)
            hashes += bytes.fromhex(index.sha256)
            counts.append(len(index))
        self.shards = Shards(Indexes.from_paths(self.paths, hashes), np.array(counts, dtype=np.int64))
        self.captions = Captions(options.captions or CAPTION_KEYS)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if path.is_file():
            return bool(SHARD.search(path.name)) or head(path)[257:262] == b"ustar"
        if path.is_dir():
            return any(SHARD.search(inside.name) and not is_ignored(inside.name) for inside in path.iterdir())
        return bool(SHARD.search(path.name)) and all(one.is_file() for one in matching_paths(str(path)))

    def rows(self) -> Iterator[Row]:
        prefix = "" if self.keys_are_unique() else "{:05d}/"
        if prefix:
            say(f"{self.path}: some keys occur in several shards; before each key is written the number of its shard")
        distinct = len({path.name for path in self.paths}) == len(self.paths)
        for k, path in enumerate(self.paths):
            split = split_of(re.split(r"[-_.\d]", path.name)[0])
            for row in self.shard_rows(k):
                name = path.name if distinct else str(path)
                key = prefix.format(k) + row.key if row.key else ""
                yield replace(row, name=f"{name}:{row.name}" if row.name else name, key=key, split=split)

    def shard_rows(self, k: int) -> Iterator[Row]:
        """The rows of shard k; their names are keys."""
        index, members = self.shards.indexes[k], further_members(self.paths[k])
        for i, key in enumerate(index.keys, int(self.shards.starts[k])):
            row = Row(key, about={"shard": k, "members": members.pop(key, {})}, key=key, place=i)
            yield self.with_captions(row)
        known = set(index.keys)
        for name, spans in by_last_dot(members).items():
            if EXTENSIONS.isdisjoint(spans) or spans.keys().isdisjoint(KINDS[1:]):
                yield from (Row(f"{name}.{ending}" if ending else name, problem=NO_SAMPLE) for ending in spans)
                continue
            key = key_without_dots(name, known)
            known.add(key)
            yield self.with_captions(Row(name, about={"shard": k, "members": spans}, key=key))
        for name, reason in index.faults:
            if not (members and "no member is named" in reason):  # these were all given above
                yield Row(name, problem=reason)

    def with_captions(self, row: Row) -> Row:
        """The row of a sample with its captions, or with what is wrong with them."""
        try:
            return row.with_captions(self.captions.read(self.texts(row)))
        except BadSample as error:
            return row.with_problem(error.bad.reason)

    def texts(self, row: Row) -> Sample:
        """A row's sample without its image."""
        if row.place >= 0:
            return self.shards.read(row.place, KINDS[1:])
        return Sample(row.name, str(self.path), None, self.member(row, "txt"), self.member(row, "json"))

    def keys_are_unique(self) -> bool:
        """Whether no key occurs twice."""
        hashes = [
            hashlib.blake2b(key.encode(), digest_size=8).digest()
            for index in self.shards.indexes
            for key in index.keys
        ]
        return len(np.unique(np.array(hashes, dtype="V8"))) == len(hashes)

    def stamp(self, row: Row) -> str:
        return self.shards.indexes.sha256[row.about["shard"]].tobytes().hex()

    def member(self, row: Row, ending: str) -> bytes | None:
        """A member of a row's sample that its index does not know."""
        if ending not in row.about["members"]:
            return None
        offset, size = row.about["members"][ending]
        with self.paths[row.about["shard"]].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def image(self, row: Row) -> bytes:
        if row.place >= 0:
            data = self.shards.read(row.place, ("image",)).image
        else:
            data = self.member(row, min(EXTENSIONS & row.about["members"].keys()))
        if data is None:
            raise BadSample(row.name, row.key, "it has no image")
        return data

    def close(self) -> None:
        self.shards.close()

    def sample(self, rows: list[Row], data: bytes, extension: str) -> dict[str, Any]:
        (row,) = rows
        texts = self.texts(row)
        members = {name: self.member(row, name) for name in row.about["members"] if name not in EXTENSIONS}
        members |= {"txt": texts.txt, "json": texts.json}
        kept = {name: content for name, content in members.items() if content is not None}
        return {"__key__": row.key} | kept | {extension: data}


def further_members(path: Path) -> Members:
    """The members of a shard that are no picture and no caption of a sample: ``KEY.cls``, ``KEY.mask.png``."""
    found: Members = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member in memory
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                split = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]*)", name)
                key, ending = split.groups() if split else (name, "")
                if member.isfile() and not is_ignored(name) and ending.lower() not in (*EXTENSIONS, *KINDS[1:]):
                    found.setdefault(key, {})[ending] = (member.offset_data, member.size)
    except (tarfile.TarError, ValueError, OverflowError):
        pass  # a damaged archive is among the shards' faults
    return found


def by_last_dot(members: Members) -> Members:
    """Members by all of their names up to the last dot, and by what follows it, in small letters."""
    found: Members = {}
    for key, spans in members.items():
        for ending, span in spans.items():
            name = f"{key}.{ending}" if ending else key
            folder, slash, base = name.rpartition("/")
            stem, _, last = base.rpartition(".") if "." in base.strip(".") else (base, "", "")
            found.setdefault(folder + slash + stem, {})[last.lower()] = span
    return found


def key_without_dots(name: str, known: Collection[str]) -> str:
    """A key that is made of a name with dots and is not one of those that are known."""
    folder, slash, base = name.rpartition("/")
    key = folder + slash + base.strip(".").replace(".", "_")
    while key in known:
        key += "_"
    return key


SOURCE = TarShards
