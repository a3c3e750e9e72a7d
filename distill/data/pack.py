"""Writing shards: samples in, WebDataset tar files out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

PER_SHARD = 1000


def write_shards(folder: Path, stem: str, samples: Iterable[dict[str, Any]], per_shard: int = PER_SHARD) -> list[Path]:
    """Write samples with webdataset's own writer.

    Args:
        folder: where to; made when missing.
        stem: shards are called ``STEM-000000.tar`` and so on.
        samples: dictionaries with ``__key__`` and one entry a member, by extension: ``png`` bytes, ``txt`` text,
            ``json`` anything JSON can hold.
        per_shard: samples in each shard but the last.

    Returns:
        The shards, in order.
    """
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder / f"{stem}-%06d.tar")
    # One time stamp for all members: packing the same samples twice gives the same bytes.
    with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0, mtime=0, opener=open_new) as sink:
        for sample in samples:
            sink.write(sample)
    return sorted(folder.glob(f"{stem}-*.tar"))


def open_new(name: str) -> Any:
    """Open a shard for writing; never over one that is there."""
    return open(name, "xb")
