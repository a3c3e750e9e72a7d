"""Writing shards: samples in, WebDataset tar files out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import write_whole

PER_SHARD = 1000


def write_shards(folder: Path, stem: str, samples: Iterable[dict[str, Any]], per_shard: int = PER_SHARD) -> list[Path]:
    """Write samples as shards, each complete or absent.

    Args:
        folder: where to; made when missing.
        stem: shards are called ``STEM-000000.tar`` and so on.
        samples: dictionaries with ``__key__`` and one entry a member, by extension: ``png`` bytes, ``txt`` text,
            ``json`` anything JSON can hold.
        per_shard: samples in each shard but the last.

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
        if path.exists():
            raise UserError(f"The shard {path} already exists.", "Choose another folder.")
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
