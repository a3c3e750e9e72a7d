"""What of some files the operating system is asked to read into its cache, before it is needed."""

from __future__ import annotations

import os

import numpy as np

CERTAIN, EVERY = 64, 8  # after so many runs in the cache, only every so many-th is looked up until one is not
SPREAD = 1 << 16  # bytes between the images of neighbouring samples, on average, that are read ahead too


def parts_by_shard(runs: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(shard, first sample, last sample) of the parts of some runs that are in one shard, [m] int64 each.

    Args:
        runs: [n, 2] int64, the number of the first sample of each run of consecutive ones, and how many they are.
        starts: [shards + 1] int64, the number of the first sample of each shard, and of all samples.
    """
    begins, ends = runs[:, 0], runs.sum(axis=1)
    shards = starts.searchsorted(begins, side="right") - 1
    parts = starts.searchsorted(ends - 1, side="right") - shards
    if (parts > 1).any():
        number = np.repeat(np.arange(len(runs)), parts)
        shards = shards[number] + np.arange(len(number)) - np.repeat(np.cumsum(parts) - parts, parts)
        begins = np.maximum(begins[number], starts[shards])
        ends = np.minimum(ends[number], starts[shards + 1])
    some = ends > begins  # of shards without samples there is none
    return shards[some], begins[some], ends[some] - 1


def spans(shards: np.ndarray, starts: np.ndarray, ends: np.ndarray, longest: np.ndarray) -> list[list[int]]:
    """[shard, first byte, number of bytes] of what is read ahead, from [n] int64 each; not what is longer than
    ``longest``, nor what begins or ends with a sample without an image."""
    lengths = ends - starts
    chosen = (starts > 0) & (ends > 0) & (lengths > 0) & (lengths <= longest)
    found: list[list[int]] = np.stack([shards, starts, lengths], axis=1)[chosen].tolist()
    return found


def read_ahead(file: int, start: int, length: int) -> bool:
    """Ask the operating system to read a part of a file into its cache, and do not wait for it.

    Returns:
        Whether it was there before.

    Raises:
        OSError: if that is not possible.
    """
    if is_cached(file, start + length - 1):
        return True
    if hasattr(os, "posix_fadvise"):  # which macOS lacks
        os.posix_fadvise(file, start, length, os.POSIX_FADV_WILLNEED)
    return False


def is_cached(file: int, offset: int) -> bool:
    """Whether a byte of a file is in the operating system's cache; False where that cannot be found out.

    This is ten times as fast as asking for some hundred pages that are all in the cache.
    """
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except (OSError, AttributeError):
        return False
