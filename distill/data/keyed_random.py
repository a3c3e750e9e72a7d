"""Random numbers that are a function of a string: the same on every machine, in every process and in any order."""

from __future__ import annotations

import hashlib
import math

import numpy as np

ROUNDS = 8  # of a permutation; twice what Luby and Rackoff (1988) need for ideal round functions


def uniform(name: str, count: int) -> list[float]:
    """``count`` numbers, at most eight, uniformly distributed in [0, 1), that depend on ``name`` alone.

    They are taken from a hash, because seeding a generator for every sample would take longer than reading it.
    """
    # A float holds 53 bits. With all 64, the largest values would be rounded to 1.
    return [(number >> 11) / 2**53 for number in integers(name, count)]


def integers(name: str, count: int) -> list[int]:
    """``count`` integers, at most eight, uniformly distributed in [0, 2⁶⁴), that depend on ``name`` alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8 * count).digest()
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(count)]


def mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64 → uint64, one to one: every bit of the result depends on every bit of the number.

    The output function of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def shuffled(name: str, size: int) -> np.ndarray:
    """[size] int64: the numbers below ``size`` in a random order that depends on ``name`` and ``size`` alone.

    Unlike a shuffle by NumPy, it is the same in all of NumPy's versions.
    """
    (key,) = integers(name, 1)
    steps = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.argsort(mixed(steps + np.uint64(key)), kind="stable")


class Permutation:
    """A random permutation of the numbers below ``size`` that depends on ``name`` and ``size`` alone.

    It is computed for the numbers that are asked for, so a permutation of a billion numbers takes no memory: a Feistel
    network over pairs of digits, applied again to what falls outside (Black and Rogaway, "Ciphers with Arbitrary
    Finite Domains", 2002, sections 3 and 4). For fewer than some hundred numbers not all permutations are equally
    likely; use :func:`shuffled` there.
    """

    def __init__(self, name: str, size: int) -> None:
        self.size, self.keys = size, [np.uint64(key) for key in integers(name, ROUNDS)]
        left = math.isqrt(max(0, size - 1)) + 1
        self.sides = np.uint64(left), np.uint64(-(-size // left))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """[n] int64 below ``size`` → [n] int64 below ``size``."""
        found = self._once(numbers.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= np.uint64(self.size))):
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        """A permutation of the numbers below the product of both sides."""
        sides, halves = self.sides, list(np.divmod(numbers, self.sides[1]))
        for number, key in enumerate(self.keys):
            one, other = number % 2, 1 - number % 2
            halves[one] = (halves[one] + mixed(halves[other] + key) % sides[one]) % sides[one]
        return halves[0] * sides[1] + halves[1]
