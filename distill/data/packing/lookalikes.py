"""Pictures that look alike: their difference hashes differ in at most ``MAX_BITS`` bits."""

from __future__ import annotations

import numpy as np

from distill.data.check import MAX_BITS, Findings, NearDuplicates


class Known(NearDuplicates):
    """Pictures to which others can be added, to find those that look like them."""

    def __init__(self) -> None:
        super().__init__(Findings())

    def add(self, image_hash: int, name: str) -> None:
        """Add a picture by its difference hash."""
        if image_hash in self.first:
            return
        self.first[image_hash] = name
        for bucket, mask in zip(self.buckets, self.masks, strict=True):
            bucket.setdefault(image_hash & mask, []).append(image_hash)


def groups(hashes: np.ndarray) -> np.ndarray:
    """Groups of pictures that look alike, also by way of others: where A looks like B and B like C, all three are one.

    As in :class:`~distill.data.check.NearDuplicates`, only hashes are compared that are equal in one of
    ``MAX_BITS + 1`` groups of bits.

    Args:
        hashes: [n] uint64 difference hashes.

    Returns:
        [n] int64, the same number for all pictures of a group.
    """
    different, inverse = np.unique(hashes, return_inverse=True)
    root = np.arange(len(different))
    for mask in Known().masks:
        part = different & np.uint64(mask)
        order = np.argsort(part, kind="stable")
        part = part[order]
        left = np.arange(max(0, len(order) - 1))
        step = 1
        while len(left := left[left + step < len(order)]):
            left = left[part[left] == part[left + step]]
            pairs = np.stack([order[left], order[left + step]], axis=1)
            bits = np.unpackbits((different[pairs[:, 0]] ^ different[pairs[:, 1]]).view(np.uint8)).reshape(-1, 64)
            for a, b in pairs[bits.sum(axis=1) <= MAX_BITS].tolist():
                join(root, a, b)
            step += 1
    return np.array([find(root, i) for i in inverse.tolist()], dtype=np.int64)


def find(root: np.ndarray, i: int) -> int:
    """The group of element i in a union-find forest, whose path is shortened on the way."""
    while root[i] != i:
        root[i] = root[root[i]]
        i = int(root[i])
    return i


def join(root: np.ndarray, i: int, j: int) -> None:
    """Make one group of those of two elements."""
    i, j = find(root, i), find(root, j)
    root[max(i, j)] = min(i, j)
