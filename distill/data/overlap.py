"""Shards that are both trained and evaluated on."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from distill.data.indexes import read_index
from distill.data.shard_names import file_number, shard_paths
from distill.data.shards import Shards
from distill.errors import UserError
from distill.wording import counted

NAMED = 5  # shards in a message


def without(specs: Iterable[str], others: Collection[str]) -> tuple[list[str], list[Path]]:
    """The shards of ``specs`` that are not among ``others``, as paths, and those that are: the same files, whatever
    their names.

    Raises:
        UserError: as by :func:`~distill.data.shard_names.shard_paths`, or if no shard is left.
    """
    paths = shard_paths(specs)
    files = {file_number(path) for path in shard_paths(others)} if others else set()
    both = [path for path in paths if file_number(path) in files]
    if len(both) == len(paths):
        raise UserError(f"All shards are also those to compare with: {listed(both)}.", "Name other shards.")
    return [str(path) for path in paths if path not in set(both)], both


def check_apart(train: Shards, train_specs: Sequence[str], eval_specs: Sequence[str]) -> None:
    """Check that no training shard is an evaluation shard: the same file, or one with the same content.

    A recipe may name a shard itself for both; then a line on standard error says what that means.

    Raises:
        UserError: if a folder or wildcard of ``data.train`` brings in an evaluation shard.
    """
    evaluation: list[Path] = []
    with suppress(UserError):  # they need not be there while training
        evaluation = shard_paths(eval_specs)
    both = list[Path]()
    for path in evaluation:
        with suppress(UserError):
            sha256 = np.frombuffer(bytes.fromhex(read_index(path).sha256), dtype=np.uint8)
            both += [path] if (train.indexes.sha256 == sha256).all(axis=1).any() else []
    if not both:
        return
    named = {file_number(path) for spec in train_specs if (path := Path(spec)).is_file()}
    if any(file_number(path) not in named for path in both):
        raise UserError(
            f"data.train also holds {counted(len(both), 'evaluation shard')}: {listed(both)}.",
            "Name the training shards alone, such as data.train = 'shards/train-*.tar', or move the others elsewhere.",
        )
    print(
        f"Note: data.eval names shards that are trained on ({listed(both)}): what is measured on them does not "
        "hold for new data.",
        file=sys.stderr,
    )


def listed(paths: Sequence[Path]) -> str:
    """The names of shards for a message, some of them."""
    return ", ".join(map(str, paths[:NAMED])) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
