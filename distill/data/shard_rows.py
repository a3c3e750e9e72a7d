"""What is done for every shard of a teacher cache: before its rows are computed, and before they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from distill.data.cache import Cache
from distill.data.index import ShardIndex
from distill.errors import UserError
from distill.files import abandoned


def begin(caches: Sequence[Cache], index: ShardIndex, fingerprints: Sequence[str]) -> None:
    """Get the folders of some caches ready for a shard's file.

    Args:
        fingerprints: that of each cache's teacher.

    Raises:
        UserError: if a folder has outputs of another identity or of other weights.
    """
    for cache, weights in zip(caches, fingerprints, strict=True):
        remove_unfinished(cache.file(index.path))
        cache.claim(index, weights)


def check_finite(cache: Cache, shard: Path, rows: torch.Tensor) -> None:
    """Raise ``UserError`` if rows hold NaN, or were too large for the cache's dtype."""
    if rows.isnan().any() or (cache.table.dtype == "fp32" and not rows.isfinite().all()):
        raise UserError(
            f"'{cache.card.name}' gives embeddings of {shard.name} that are no numbers: its weights are damaged.",
            f"Get them again: {cache.card.source or cache.card.install}.",
        )
    if not rows.isfinite().all():
        raise UserError(
            f"'{cache.card.name}' gives embeddings of {shard.name} that {cache.table.dtype} cannot hold.",
            'Set teacher.N.dtype = "fp32".',
        )


def remove_unfinished(file: Path) -> None:
    """Remove the temporary files that killed processes have left of a file."""
    for unfinished in file.parent.glob(f".{file.name}.*.tmp"):
        if abandoned(unfinished):
            unfinished.unlink(missing_ok=True)
