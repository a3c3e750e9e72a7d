"""Writing shards: samples in, WebDataset tar files out."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from distill.data.pack_rows import Row
from distill.data.views import decode_bytes
from distill.errors import UserError
from distill.files import write_text, write_whole

PER_SHARD = 1000
NOTE, LEFT_OUT = "pack.json", "left-out.jsonl"
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def write_shards(
    folder: Path, stem: str, samples: Iterable[dict[str, Any]], per_shard: int = PER_SHARD, resume: bool = False
) -> list[Path]:
    """Write samples as shards, each complete or absent.

    Args:
        folder: where to; made when missing.
        stem: shards are called ``STEM-000000.tar`` and so on.
        samples: dictionaries with ``__key__`` and one entry a member, by extension: ``png`` bytes, ``txt`` text,
            ``json`` anything JSON can hold.
        per_shard: samples in each shard but the last.
        resume: leave shards that are there as they are: they hold what would be written.

    Returns:
        The shards, in order.

    Raises:
        UserError: if one of them is already there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    rest = iter(samples)
    while chunk := list(islice(rest, per_shard)):
        path = folder / f"{stem}-{len(paths):06d}.tar"
        if path.exists() and not resume:
            raise UserError(f"The shard {path} already exists.", "Choose another folder.")
        if not path.exists():
            write_whole(path, lambda to, samples=chunk: write_shard(to, samples))  # type: ignore[misc]
        paths.append(path)
    return paths


def write_shard(path: Path, samples: list[dict[str, Any]]) -> None:
    """Write one shard with webdataset's own writer."""
    import webdataset

    # One time stamp for all members: packing the same samples twice gives the same bytes.
    with path.open("xb") as file, webdataset.TarWriter(file, mtime=0) as writer:
        for sample in samples:
            writer.write(sample)


@dataclass
class Packing:
    """One way to turn rows into shards; the same rows always give the same shards.

    Attributes:
        out: the folder.
        test_percent: how many of a hundred pictures go to ``test-*.tar``: decided by a hash of the picture, so the
            same picture never is in both.
        per_shard: samples a shard.
        reject: gives the reason not to take a picture, or "".
        left_out: files that were not taken, with the reason.
    """

    out: Path
    test_percent: int = 0
    per_shard: int = PER_SHARD
    reject: Callable[[bytes], str] = lambda data: ""
    left_out: dict[str, str] = field(default_factory=dict)

    def run(
        self, rows: Callable[[], Iterator[Row]], what: dict[str, Any], tick: Callable[[int], object]
    ) -> list[Path]:
        """Write the shards, or those that are still missing.

        Args:
            rows: gives the rows anew each time it is called.
            what: says what is packed and how; it must not change until all is written.

        Raises:
            UserError: if the folder holds something else.
        """
        note, said = self.out / NOTE, json.dumps(what, indent=1, sort_keys=True) + "\n"
        if note.is_file() and note.read_text(encoding="utf-8") != said:
            raise UserError(f"{self.out} holds shards of something else ({note}).", "Choose another --out.")
        if not note.is_file():
            if self.out.is_dir() and any(self.out.iterdir()):
                raise UserError(f"{self.out} exists and is no empty folder.", "Choose another --out.")
            write_text(note, said)
        paths = []
        for stem in ("train", "test") if self.test_percent else ("train",):
            paths += write_shards(self.out, stem, self._samples(rows(), stem, tick), self.per_shard, resume=True)
        left = [{"image": image, "reason": reason} for image, reason in self.left_out.items()]
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in left]
        write_text(self.out / LEFT_OUT, "".join(lines))
        return paths

    def _samples(self, rows: Iterator[Row], stem: str, tick: Callable[[int], object]) -> Iterator[dict[str, Any]]:
        """The samples that belong into the shards of one name."""
        for number, row in enumerate(rows):
            tick(1)
            try:
                data = row.image.read_bytes()
                reason = "" if row.captions else "there is no caption"
                test = int(hashlib.sha256(data).hexdigest(), 16) % 100 < self.test_percent
                if (stem == "test") != test and not reason:
                    continue
                if not reason:
                    decode_bytes(data)
                    reason = self.reject(data)
            except OSError as error:
                reason = f"the file cannot be read: {error.strerror}"
            except ValueError as error:
                reason = f"the image {error}"
            extension = EXTENSIONS.get(format_of(data), "") if not reason else ""
            if not reason and not extension:
                reason = "it is neither JPEG nor PNG nor WebP"
            if reason:
                self.left_out[str(row.image)] = reason
                continue
            yield sample_of(number, row, data, extension)


def fingerprint(rows: Iterable[Row]) -> tuple[int, str]:
    """How many rows there are, and a hash of what they say and of their files' sizes and times.

    Shards follow from all rows, so a packing that was broken off can only go on where none of them has changed.
    """
    found, count = hashlib.sha256(), 0
    for row in rows:
        try:
            stat = row.image.stat()
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        except (OSError, ValueError):
            stamp = "none"
        found.update(f"{row.image} {stamp} {json.dumps([row.captions, row.about])}\n".encode(errors="replace"))
        count += 1
    return count, found.hexdigest()


def format_of(data: bytes) -> str:
    """The format of an image that decodes, whatever its file is called."""
    return str(Image.open(io.BytesIO(data)).format)


def sample_of(number: int, row: Row, data: bytes, extension: str) -> dict[str, Any]:
    """A row as webdataset writes it."""
    about: dict[str, Any] = {"captions": list(row.captions), "file": row.image.name} | row.about
    return {"__key__": f"{number:09d}", extension: data, "txt": row.captions[0], "json": about}
