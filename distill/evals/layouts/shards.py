"""Shards with captions or classes: ``KEY.txt``, ``KEY.json`` with captions, ``label`` or ``class``; or ``KEY.cls``."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.captions import Caption, Captions
from distill.data.members import is_clutter, split_name
from distill.data.packing.folders import split_of
from distill.data.shard_names import shard_paths
from distill.data.shards import Shards
from distill.errors import BadSample, UserError
from distill.evals import class_labels
from distill.evals.dataset import Classes, Dataset, Samples
from distill.evals.layout import Layout
from distill.evals.templates import find_templates
from distill.evals.usable import usable_samples

PROBES = 100  # samples, or members, that are looked at to find out whether there are classes
SPLIT_PREFIX = re.compile(r"([A-Za-z]+)[-_.]?\d*[^/]*\.tar$", re.IGNORECASE)


class ShardFiles(Layout):
    """Local shards. Those that ``distill data pack`` wrote are divided by their names: train-*, val-*, test-*.tar."""

    rank = 90

    @classmethod
    def recognises(cls, specs: Sequence[str]) -> bool:
        return True

    @cached_property
    def paths(self) -> dict[str, list[Path]]:
        """The shards of each split; of one split "" unless all their names begin with splits of at least two kinds."""
        paths = shard_paths(self.specs)
        splits: dict[str, list[Path]] = {}
        for path in paths:
            found = SPLIT_PREFIX.match(path.name)
            splits.setdefault(split_of(found[1]) if found else "", []).append(path)
        return splits if len(splits) > 1 and "" not in splits else {"": paths}

    def splits(self) -> Sequence[str]:
        return list(self.paths)

    def open(self, split: str) -> Dataset:
        return open_shards(self, self.paths[split], ", ".join(self.specs))


def open_shards(layout: Layout, paths: Sequence[Path], name: str, by_line: bool = False) -> Dataset:
    """A data set of shards.

    Args:
        layout: with the options and what says how samples are read.
        paths: of the shards.
        name: of the data set.
        by_line: whether every line of ``KEY.txt`` is a caption.
    """
    reading, options = layout.reading, layout.options
    shards, captions = Shards.open([str(path) for path in paths], strict=not reading.skip_bad), reading.captions
    if reading.skip_bad:
        # Without a caption a sample cannot be used, unless none has one: then the data are for other tasks.
        shards = usable_samples(shards, captions if has_captions(shards, captions) else None, reading.bad)
    for shard, key in shards.missing("image"):
        raise BadSample(str(shard), key, "there is no image")
    # Which samples are left out changes the rows that are embedded.
    used = shards.numbers.tobytes() if hasattr(shards, "numbers") else b""
    identity = hashlib.sha256(shards.indexes.sha256.tobytes() + used).hexdigest()
    return Dataset(
        name,
        shards,
        identity,
        partial(read_captions, shards, captions, by_line),
        partial(read_classes, shards, paths, options.label, options.classes, options.templates),
    )


def has_captions(samples: Samples, captions: Captions) -> bool:
    """Whether any sample has a caption."""
    for i in range(len(samples)):
        with suppress(BadSample):
            return bool(captions.read(samples.read(i, ["txt", "json"])))
    return False


def read_captions(samples: Samples, captions: Captions, by_line: bool, i: int) -> list[Caption]:
    """The captions of sample i."""
    sample = samples.read(i, ["txt", "json"])
    found = captions.read(sample)
    if not by_line or sample.txt is None:
        return found
    lines = [line.strip() for caption in found for line in caption.text.splitlines()]
    return [Caption(line) for line in dict.fromkeys(lines) if line]


def read_classes(samples: Samples, paths: Sequence[Path], label: str, file: str, templates: str) -> Classes:
    """The classes of samples, from their JSON or, if that has none, from ``KEY.cls``.

    Raises:
        UserError: if a sample has no class, or they do not fit the file of classes.
    """
    entries: list[dict[str, Any]] = [{}] * len(samples)
    found: list[Any] = [None] * len(samples)
    # Where a few samples say nothing, not all are read: there may be millions.
    looked_at = np.unique(np.linspace(0, len(samples) - 1, PROBES).astype(int))
    if any(class_labels.class_in(json_of(samples, int(i)), label) is not None for i in looked_at):
        entries = [json_of(samples, i) for i in range(len(samples))]
        found = [class_labels.class_in(entry, label) for entry in entries]
    elif not label and class_members(paths[:1], PROBES):
        members = class_members(paths)
        found = [members.get(samples.key(i)) for i in range(len(samples))]
    if all(value is None for value in found):
        keys = ", ".join(class_labels.keys_for(label))
        raise UserError(
            f"No sample has a class: neither under {keys} in KEY.json nor in KEY.cls.",
            "Name the key of the classes with --label.",
        )
    if any(isinstance(value, list | dict) for value in found):
        raise UserError("A sample has a list of classes, and one is expected.", "Name another key with --label.")
    names = class_labels.read_names(file) if file else ()
    called = [entry.get("class") for entry in entries]
    return class_labels.classes_of(found, names, called, find_templates(templates))


def json_of(samples: Samples, i: int) -> dict[str, Any]:
    """The object in a sample's ``KEY.json``; empty if there is none."""
    try:
        text = samples.read(i, ["json"]).json
        found = None if text is None else json.loads(text)
    except (BadSample, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def class_members(paths: Sequence[Path], most: int | None = None) -> dict[str, str]:
    """The texts of members ``KEY.cls`` of some shards, by their keys.

    Args:
        paths: of the shards.
        most: how many members of a shard are looked at; None for all.
    """
    found: dict[str, str] = {}
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in islice(tar, most):
                    tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every member in memory
                    key, ending = split_name(member.name)
                    if ending == "cls" and member.isfile() and not is_clutter(member.name):
                        file = tar.extractfile(member)
                        assert file is not None
                        found[key] = file.read().decode("utf-8", "replace").strip()
        except (tarfile.TarError, OSError):
            continue  # a damaged archive is among the shards' faults
    return found


LAYOUT = ShardFiles
