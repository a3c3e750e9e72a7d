"""Words of messages that depend on a number."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 shard``, ``2 shards``.

    Args:
        n: the number.
        noun: in the singular.
        plural: of the noun; default the singular and an s.
    """
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"
