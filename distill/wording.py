"""Wording that messages share."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 shard", "2 shards"; ``plural`` where that is not the noun with an "s"."""
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"


def in_bytes(count: float) -> str:
    """A number of bytes as text, with a unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
