"""Pictures in folders and tables: whatever ``distill data pack`` reads, without packing it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from distill.data.captions import Caption, Captions
from distill.data.index import KINDS
from distill.data.packing.row import Row
from distill.data.packing.source import Options, Source, kinds
from distill.data.packing.sources.tar_shards import TarShards
from distill.data.sample import Sample
from distill.data.shard_names import holds_shards
from distill.data.views import decode
from distill.errors import Bad, BadSample, UserError
from distill.evals import class_labels
from distill.evals.dataset import Classes, Dataset
from distill.evals.layout import Layout
from distill.evals.templates import find_templates
from distill.evals.usable import usable_numbers


class PictureFiles(Layout):
    """A folder with a folder a class, perhaps below train and test; an image folder with metadata; a table."""

    rank = 50

    @classmethod
    def recognises(cls, specs: Sequence[str]) -> bool:
        if len(specs) != 1 or not Path(specs[0]).exists() or holds_shards(specs[0]):
            return False
        return source_kind(Path(specs[0])) is not None

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """The rows of each split, several of one picture joined, those that cannot be used left out or raised."""
        path = Path(self.specs[0])
        kind = source_kind(path)
        assert kind is not None
        keep = (self.options.label,) if self.options.label and "keep" in kind.takes else ()
        self.source = kind(path, Options(keep=keep))
        splits: dict[str, dict[str, Row]] = {}
        for row in self.source.rows():
            if row.problem:
                bad = Bad(str(path), row.name or row.where, row.problem)
                if not self.reading.skip_bad and row.path:
                    raise BadSample(bad.shard, bad.key, bad.reason)
                self.reading.bad.append(bad)
                continue
            own = splits.setdefault(row.split, {})
            first = own.get(row.name)
            own[row.name] = row if first is None else replace(first, captions=(*first.captions, *row.captions))
        if not splits:
            raise UserError(f"{path} holds no picture that can be used.", "Name other data.")
        return {split: list(rows.values()) for split, rows in splits.items()}

    def splits(self) -> Sequence[str]:
        return list(self.rows)

    def open(self, split: str) -> Dataset:
        rows, options = self.rows[split], self.options
        if self.reading.skip_bad:
            every = RowSamples(self.source, rows)
            rows = [rows[i] for i in usable_numbers(every, decode, self.reading.bad)]
        samples = RowSamples(self.source, rows)
        parts = [self.specs[0], *(f"{row.name}\0{self.source.stamp(row)}" for row in rows)]
        identity = hashlib.sha256("\0\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
        name = f"{self.specs[0]}, {split}" if split else self.specs[0]
        return Dataset(
            name,
            samples,
            identity,
            partial(captions_of, samples, self.reading.captions),
            partial(read_classes, rows, options.label, options.classes, options.templates),
        )


def source_kind(path: Path) -> type[Source] | None:
    """The kind of source that recognises a path, unless it is shards."""
    found = next((kind for kind in kinds() if kind.recognises(path)), None)
    return None if found is None or issubclass(found, TarShards) else found


class RowSamples:
    """The rows of a source as samples, whose pictures are read from their own files.

    Args:
        source: reads a row's picture.
        rows: one a picture.
    """

    def __init__(self, source: Source, rows: Sequence[Row]) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, i: int) -> str:
        return self.rows[i].name

    def read(self, i: int, kinds: Sequence[str] = KINDS) -> Sample:
        row, image = self.rows[i], None
        if "image" in kinds:
            try:
                image = self.source.image(row)
            except (OSError, ValueError) as error:
                raise BadSample(str(self.source.path), row.name, f"it cannot be read: {error}") from error
        return Sample(row.name, str(self.source.path), image, None, json.dumps(dict(row.about), default=str).encode())


def captions_of(samples: RowSamples, settings: Captions, i: int) -> list[Caption]:
    """The captions of row i in the languages asked for."""
    row = samples.rows[i]
    kept = [
        one
        for one in dict.fromkeys(row.captions)
        if not settings.languages or one.language in ("", *settings.languages)
    ]
    if not kept:
        raise samples.read(i, []).lacks("caption")
    return kept


def read_classes(rows: Sequence[Row], label: str, file: str, templates: str) -> Classes:
    """The classes of rows; see :func:`distill.evals.class_labels.classes_of`."""
    found = [class_labels.class_in(row.about, label) for row in rows]
    if all(value is None for value in found):
        raise UserError(
            f"No picture has a class under {', '.join(class_labels.keys_for(label))}.", "Name the column with --label."
        )
    names = class_labels.read_names(file) if file else ()
    called = [row.about.get("class") for row in rows]
    return class_labels.classes_of(found, names, called, find_templates(templates))


LAYOUT = PictureFiles
