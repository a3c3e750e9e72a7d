"""Wording that messages share."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 shard", "2 shards"; ``plural`` where that is not the noun with an "s"."""
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"
