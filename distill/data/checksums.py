"""Checksums of the rows of a teacher cache."""

from __future__ import annotations

import zlib

import numpy as np
import torch

ABSENT = 0xFFFFFFFF  # inverts every bit of a checksum


def checksum(row: torch.Tensor) -> int:
    """CRC-32 of a row's bytes; any one flipped bit changes it."""
    return zlib.crc32(row.reshape(-1).view(torch.uint8).numpy().data)


def checksums(rows: torch.Tensor) -> np.ndarray:
    """[views, n] uint32: the checksum of each row of [views, n, …]."""
    sums = [[checksum(row) for row in view] for view in rows]
    return np.array(sums, dtype=np.uint32).reshape(rows.shape[:2])
