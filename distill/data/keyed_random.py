"""Random numbers that are a function of a string: the same on every machine, in every process and in any order."""

from __future__ import annotations

import hashlib


def uniform(name: str, count: int) -> list[float]:
    """``count`` numbers, at most eight, uniformly distributed in [0, 1), that depend on ``name`` alone.

    They are taken from a hash, because seeding a generator for every sample would take longer than reading it.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8 * count).digest()
    # A float holds 53 bits. With all 64, the largest values would be rounded to 1.
    return [(int.from_bytes(digest[8 * i : 8 * i + 8], "little") >> 11) / 2**53 for i in range(count)]
