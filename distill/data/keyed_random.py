"""Random numbers that follow from a name: the same on every machine, in every process, in any order."""

from __future__ import annotations

import hashlib


def uniform(name: str, count: int) -> list[float]:
    """``count`` numbers in [0, 1), at most eight, that look random and depend on ``name`` alone.

    Straight from a hash: seeding a generator for every sample would cost more than reading it.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8 * count).digest()
    # 53 bits are what a float holds, so that no number rounds up to 1.
    return [(int.from_bytes(digest[8 * i : 8 * i + 8], "little") >> 11) / 2**53 for i in range(count)]
