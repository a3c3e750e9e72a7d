"""The counts of the fault suite, and the expected samples that it compares runs with.

The samples that a step must train on are computed here, from the order of the stream and the list of samples made
unusable; ``samples`` in metrics.jsonl, a checksum of the samples actually used, must be the same at every step.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import metrics

from distill.data.indexes import read_index
from distill.data.order import Order

BATCH = 16


@dataclass
class Row:
    """A row of the table: faults, runs, finished runs, lost samples and repeated samples."""

    injected: int = 0
    runs: int = 0
    finished: int = 0
    lost: int = 0
    repeated: int = 0


TABLE: dict[str, Row] = {}


def count(fault: str, injected: int, runs: int = 1, finished: int = 1, lost: int = 0, repeated: int = 0) -> None:
    row = TABLE.setdefault(fault, Row())
    row.injected += injected
    row.runs, row.finished = row.runs + runs, row.finished + finished
    row.lost, row.repeated = row.lost + lost, row.repeated + repeated


def keys_of(shards: Path) -> list[str]:
    return [key for path in sorted(shards.glob("*.tar")) for key in read_index(path).keys]


def expected_sums(shards: Path, steps: int, bad: frozenset[str] = frozenset()) -> list[int]:
    """What ``samples`` must be at every step: the samples in stream order, each bad one replaced by the sample at the
    same position of the nearest later batch that has a good one there."""
    keys = keys_of(shards)
    counts = np.array([len(read_index(path)) for path in sorted(shards.glob("*.tar"))])
    stream = list(Order(counts, seed=0).between(0, (steps * BATCH // len(keys) + 2) * len(keys)))
    sums = []
    for step in range(steps):
        total = 0
        for position in range(step * BATCH, (step + 1) * BATCH):
            epoch, i = stream[position]
            first, turn = epoch * len(keys), 0
            while keys[i] in bad:
                turn += 1
                ahead = turn * BATCH + turn * BATCH // len(keys)
                i = stream[first + (position - first + ahead) % len(keys)][1]
            total += zlib.crc32(f"{epoch} {i} {keys[i]}".encode())
        sums.append(total)
    return sums


def compare(run: Path, sums: list[int]) -> tuple[int, int]:
    """(samples lost, samples repeated) in a finished run."""
    seen = [line["step"] for line in metrics(run)]
    lost = len(set(range(1, len(sums) + 1)) - set(seen)) * BATCH
    repeated = (len(seen) - len(set(seen))) * BATCH
    wrong = sum(line["samples"] != sums[line["step"] - 1] for line in metrics(run))
    return lost + wrong * BATCH, repeated


def summed(rows: Iterable[Row]) -> Row:
    """The column sums."""
    total = Row()
    for row in rows:
        for name, value in vars(row).items():
            setattr(total, name, getattr(total, name) + value)
    return total


def print_table(total: Row) -> None:
    print(f"\n{'fault':55} {'injected':>8} {'runs':>5} {'finished':>8} {'lost':>5} {'repeated':>8}")
    for fault, row in [*TABLE.items(), ("all", total)]:
        print(f"{fault:55} {row.injected:8} {row.runs:5} {row.finished:8} {row.lost:5} {row.repeated:8}")
