"""The rows of a source as samples: one for each picture, in an order that a hash of the pictures' names decides."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.data.packing.row import Row
from distill.data.packing.spool import Spool


class Samples:
    """The rows that can be used, grouped by picture.

    Rows lie on disk; in memory are about 40 bytes a row. The order is that of a hash of split and name: classes, and
    whatever else lies together in a source, come out mixed, and the same source always gives the same order.

    Args:
        folder: on whose disk the rows are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.hashes, self.offsets, self.captions = array("Q"), array("Q"), array("L")
        self.sha256 = hashlib.sha256()
        self.order, self.starts = np.zeros(0, np.int64), np.zeros(1, np.int64)

    def add(self, row: Row, stamp: str) -> None:
        """Add a row that can be used.

        Args:
            stamp: changes if the picture does.
        """
        if row.data is not None:
            row = replace(row, kept=self.spool.append(row.data))
        # Without the path, so that a source that was moved is the same source.
        self.sha256.update(row.content() + stamp.encode() + b"\n")
        name = hashlib.blake2b(f"{row.split}\n{row.name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self.hashes.frombytes(name)
        self.offsets.append(self.spool.append(row.record()))
        self.captions.append(len(row.captions))

    def leave_out(self, row: Row) -> None:
        """Note a row that cannot be used: if it could be later, the source has changed."""
        self.sha256.update(row.content() + b"left out\n")

    def arrange(self) -> None:
        """Group the rows, after the last one was added."""
        hashes = np.frombuffer(self.hashes, dtype=">u8").reshape(-1, 2)
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: rows of a picture stay in the source's order
        ordered = hashes[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        self.order, self.starts = order, np.append(np.flatnonzero(new), len(order))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, i: int) -> list[Row]:
        """The rows of sample i, in the source's order."""
        own = self.order[self.starts[i] : self.starts[i + 1]]
        return [Row.from_record(self.spool.read(self.offsets[k])) for k in own]

    def count(self, i: int) -> int:
        """How many captions sample i has."""
        return sum(self.captions[k] for k in self.order[self.starts[i] : self.starts[i + 1]])

    def first(self, i: int) -> Row:
        """The first row of sample i, which says where its picture is."""
        return Row.from_record(self.spool.read(self.offsets[self.order[self.starts[i]]]))

    def by_source(self) -> Iterator[int]:
        """The numbers of the samples in the order in which the source has their first rows."""
        return iter(np.argsort(self.order[self.starts[:-1]], kind="stable").tolist())

    def kept_data(self, row: Row) -> bytes:
        """The picture of a row that was added with its ``data``."""
        return self.spool.read(row.kept)

    def close(self) -> None:
        """Free memory and disk space."""
        self.spool.close()
