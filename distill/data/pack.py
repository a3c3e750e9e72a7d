"""Writing samples into WebDataset shards, and the packing of rows into them that ``distill data pack`` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from distill.data import images
from distill.data.pack_rows import Row
from distill.errors import UserError
from distill.files import write_text, write_whole

PER_SHARD = 1000  # samples
# Files beside the shards: what they were made of, and which images were left out.
DESCRIPTION_FILE, LEFT_OUT_FILE = "pack.json", "left-out.jsonl"


def write_shards(
    folder: Path, stem: str, samples: Iterable[dict[str, Any]], per_shard: int = PER_SHARD, resume: bool = False
) -> list[Path]:
    """Write samples as shards, each complete or absent.

    Args:
        folder: where to write them; made if it does not exist.
        stem: shards are called ``STEM-000000.tar`` and so on.
        samples: dictionaries with ``__key__`` and one entry a member, by extension: ``png`` bytes, ``txt`` text,
            ``json`` anything JSON can hold.
        per_shard: samples in each shard but the last.
        resume: keep shards that exist already, and write only the missing ones.

    Returns:
        The paths of all shards, in order.

    Raises:
        UserError: if a shard exists already, unless ``resume``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    remaining = iter(samples)
    while chunk := list(islice(remaining, per_shard)):
        path = folder / f"{stem}-{len(paths):06d}.tar"
        if path.exists() and not resume:
            raise UserError(f"The shard {path} already exists.", "Choose another folder.")
        if not path.exists():
            write_whole(path, lambda to, samples=chunk: write_shard(to, samples))  # type: ignore[misc]
        paths.append(path)
    return paths


def write_shard(path: Path, samples: list[dict[str, Any]]) -> None:
    """Write one shard with webdataset's ``TarWriter``."""
    import webdataset

    # With the same modification time for all members, packing the same samples twice gives the same bytes.
    with path.open("xb") as file, webdataset.TarWriter(file, mtime=0) as writer:
        for sample in samples:
            writer.write(sample)


@dataclass
class Packing:
    """Turns rows into shards. The same rows always give the same shards.

    Attributes:
        out: the folder for the shards.
        test_percent: how many percent of the images go to ``test-*.tar``. It is decided by a hash of the file's bytes,
            so that the same image is never in both training and test shards.
        per_shard: samples a shard.
        reject: from an image's bytes, the reason to leave it out, or "" to keep it.
        left_out: {path of an image that was left out: reason}.
    """

    out: Path
    test_percent: int = 0
    per_shard: int = PER_SHARD
    reject: Callable[[bytes], str] = lambda data: ""
    left_out: dict[str, str] = field(default_factory=dict)

    def run(
        self, rows: Callable[[], Iterator[Row]], description: dict[str, Any], on_progress: Callable[[int], object]
    ) -> list[Path]:
        """Write the shards, or those that are still missing.

        Args:
            rows: returns an iterator over all rows; called once for each of training and test shards.
            description: the rows' source and the settings, written to ``pack.json``. A packing that was interrupted
                goes on only with the same description.
            on_progress: called with 1 for each row.

        Returns:
            The paths of all shards.

        Raises:
            UserError: if the folder holds anything else.
        """
        file, text = self.out / DESCRIPTION_FILE, json.dumps(description, indent=1, sort_keys=True) + "\n"
        if file.is_file() and file.read_text(encoding="utf-8") != text:
            raise UserError(f"{self.out} holds shards of something else ({file}).", "Choose another --out.")
        if not file.is_file():
            if self.out.is_dir() and any(self.out.iterdir()):
                raise UserError(f"{self.out} exists and is no empty folder.", "Choose another --out.")
            write_text(file, text)
        paths = []
        for stem in ("train", "test") if self.test_percent else ("train",):
            paths += write_shards(
                self.out, stem, self._samples(rows(), stem, on_progress), self.per_shard, resume=True
            )
        entries = [{"image": image, "reason": reason} for image, reason in self.left_out.items()]
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
        write_text(self.out / LEFT_OUT_FILE, "".join(lines))
        return paths

    def _samples(
        self, rows: Iterator[Row], stem: str, on_progress: Callable[[int], object]
    ) -> Iterator[dict[str, Any]]:
        """The samples of the training shards, if ``stem`` is ``train``, or of the test shards, if it is ``test``."""
        for number, row in enumerate(rows):
            on_progress(1)
            try:
                data = row.image.read_bytes()
                reason = "" if row.captions else "there is no caption"
                test = int(hashlib.sha256(data).hexdigest(), 16) % 100 < self.test_percent
                if (stem == "test") != test and not reason:
                    continue
                if not reason:
                    images.decode(data)
                    reason = self.reject(data)
            except OSError as error:
                reason = f"the file cannot be read: {error.strerror}"
            except ValueError as error:
                reason = f"the image {error}"
            extension = images.extension_of(data) if not reason else ""
            if not reason and not extension:
                reason = "it is of a format that shards do not hold"
            if reason:
                self.left_out[str(row.image)] = reason
                continue
            yield make_sample(number, row, data, extension)


def fingerprint(rows: Iterable[Row]) -> tuple[int, str]:
    """The number of rows, and a SHA-256 of their contents and of their files' sizes and modification times.

    A packing that was interrupted may go on only if no row has changed, since each row decides where later ones go.
    """
    sha256, count = hashlib.sha256(), 0
    for row in rows:
        try:
            stat = row.image.stat()
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        except (OSError, ValueError):
            stamp = "none"
        sha256.update(f"{row.image} {stamp} {json.dumps([row.captions, row.about])}\n".encode(errors="replace"))
        count += 1
    return count, sha256.hexdigest()


def make_sample(number: int, row: Row, data: bytes, extension: str) -> dict[str, Any]:
    """A row as a WebDataset sample.

    Args:
        number: of the row; the sample's key.
        data: the image file's bytes.
        extension: of the image's member.
    """
    about: dict[str, Any] = {"captions": list(row.captions), "file": row.image.name} | row.about
    return {"__key__": f"{number:09d}", extension: data, "txt": row.captions[0], "json": about}
