"""What opening many shards finds in their indexes: how many samples, faults, and members that belong to no sample."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.data.index import ShardIndex
from distill.data.members import Leftover, lost, together
from distill.errors import Bad, BadSample, UserError
from distill.wording import counted


class Survey:
    """Adds up the indexes of shards, of which only those with faults are kept.

    Args:
        paths: of the shards.

    Attributes:
        counts: [shards] int64, samples in each.
        sha256: the shards' hashes, 32 bytes each, joined.
        faulty: (shard number, index) of the shards with faults.
        leftovers: the members that belong to no sample.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.counts = paths, np.zeros(len(paths), dtype=np.int64)
        self.sha256, self.faulty = bytearray(), list[tuple[int, ShardIndex]]()
        self.leftovers: tuple[Leftover, ...] = ()

    def add(self, index: ShardIndex, strict: bool) -> None:
        """Add the index of the next shard.

        Raises:
            BadSample: if ``strict`` and its archive has a fault.
        """
        if strict and index.faults:
            raise BadSample(str(index.path), *index.faults[0])
        number = len(self.sha256) // 32
        self.counts[number] = len(index)
        self.sha256 += bytes.fromhex(index.sha256)
        if index.faults:
            self.faulty.append((number, index))
        if index.leftovers:
            named = [replace(one, example=self.example(one, index)) for one in index.leftovers]
            self.leftovers = together([*self.leftovers, *named])

    def example(self, one: Leftover, index: ShardIndex) -> str:
        """The name of a member, with its shard where there are several."""
        return one.example if len(self.paths) == 1 else f"{one.example} in {index.path.name}"

    def check(self) -> None:
        """Raise ``UserError`` if none of the shards holds a sample."""
        if not self.counts.sum():
            why = f": {self.faulty[0][1].faults[0][1]}" if self.faulty else ""
            raise UserError(
                f"The shard {self.paths[0]} holds no sample{', nor do the others' * (len(self.paths) > 1)}{why}.",
                "Name other shards, or make new ones with 'distill data pack'.",
            )

    def warn(self) -> None:
        """Print one line on standard error if images or captions belong to no sample, which is probably a mistake."""
        if line := lost(self.leftovers):
            where = str(self.paths[0]) if len(self.paths) == 1 else counted(len(self.paths), "shard")
            print(f"Warning: in {where}, {line}", file=sys.stderr, flush=True)

    def faults(self) -> list[Bad]:
        """The faults of the archives.

        How many samples a damaged archive has lost is estimated from the complete ones' average.
        """
        complete = np.ones(len(self.counts), dtype=bool)
        complete[[k for k, index in self.faulty if index.incomplete]] = False
        usual = float(self.counts[complete].mean()) if complete.any() else 0.0
        return [
            Bad(str(index.path), key, reason, 0 if key else max(0, round(usual - len(index)) - 1))
            for _, index in self.faulty
            for key, reason in index.faults
        ]
