"""From what people have, a table or a folder of classes, to shards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distill.data.captions import Captions
from distill.data.check import NearDuplicates, difference_hash, inspect
from distill.data.images import decode
from distill.data.pack import LEFT_OUT_FILE, Packing, fingerprint
from distill.data.pack_rows import read_rows
from distill.data.shards import Shards
from distill.progress import progress_bar


def pack_source(
    source: Path,
    out: Path,
    *,
    root: Path | None,
    image: str,
    captions: tuple[str, ...],
    template: str,
    test_percent: int,
    per_shard: int,
    dedup_against: tuple[str, ...],
) -> list[Path]:
    """Make shards; see :func:`distill.pack`."""
    rows = partial(read_rows, source, root, image, captions, template)
    count, sha256 = fingerprint(rows())
    # In the order in which it is written into the folder, to be compared by a packing that goes on.
    description: dict[str, Any] = {"source": str(source.absolute()), "rows": sha256}
    description |= {"root": str(root or ""), "image": image, "captions": list(captions), "template": template}
    description |= {"test_percent": test_percent, "per_shard": per_shard, "dedup_against": list(dedup_against)}
    reject = near_duplicates(dedup_against) if dedup_against else lambda data: ""
    packing = Packing(out, test_percent, per_shard, reject)
    progress = progress_bar("packing", count * (2 if test_percent else 1), "rows")
    paths = packing.run(rows, description, progress.update)
    progress.close()
    if packing.left_out:
        print(f"{len(packing.left_out)} rows were left out; see {out / LEFT_OUT_FILE}", file=sys.stderr)
    return paths


def near_duplicates(specs: tuple[str, ...]) -> Callable[[bytes], str]:
    """A function from an image's bytes to the reason to leave it out: an image of some shards that it looks like."""
    known = NearDuplicates(inspect(Shards.open(specs, strict=False), Captions(), 0, lambda count: None))

    def reason(data: bytes) -> str:
        name = known.find(difference_hash(decode(data)))
        return f"it looks like {name}" if name else ""

    return reason
