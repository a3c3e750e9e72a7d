<<<<<<< HEAD
"""Wording that messages share."""
=======
"""Words of messages that depend on a number."""
>>>>>>> wt-reading

from __future__ import annotations


def counted(n: int, noun: str, plural: str = "") -> str:
<<<<<<< HEAD
    """A number with its noun: "1 shard", "2 shards"; ``plural`` where that is not the noun with an "s"."""
=======
    """A number with its noun: ``1 shard``, ``2 shards``.

    Args:
        n: the number.
        noun: in the singular.
        plural: of the noun; default the singular and an s.
    """
>>>>>>> wt-reading
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"
