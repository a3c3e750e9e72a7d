"""CLIP_benchmark's WebDataset layout: a folder with a folder of shards a split, and files that describe the classes.

``classnames.txt`` has a class a line, ``zeroshot_classification_templates.txt`` a template a line with ``{c}`` for the
class, ``dataset_type.txt`` "retrieval" or nothing; labels are in ``KEY.cls``, a retrieval set's captions in
``KEY.txt``, one a line. The sets at huggingface.co/clip-benchmark are of this kind; they have to be downloaded first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from distill.data.packing.folders import split_of
from distill.data.shard_names import holds_shards, shards_in
from distill.errors import UserError
from distill.evals.dataset import Dataset
from distill.evals.layout import Layout
from distill.evals.layouts.shards import open_shards

CLASSES, TEMPLATES, TYPE = "classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"


class ClipBenchmark(Layout):
    """A folder that ``clip_benchmark_export_wds`` wrote, or one of the sets hosted in that layout."""

    rank = 10

    @classmethod
    def recognises(cls, specs: Sequence[str]) -> bool:
        return len(specs) == 1 and Path(specs[0]).is_dir() and bool(split_folders(Path(specs[0])))

    @property
    def folder(self) -> Path:
        return Path(self.specs[0])

    @cached_property
    def folders(self) -> dict[str, Path]:
        return split_folders(self.folder)

    def splits(self) -> Sequence[str]:
        return list(self.folders)

    def open(self, split: str) -> Dataset:
        folder, own = self.folder, {}
        if not self.options.classes and (folder / CLASSES).is_file():
            own["classes"] = str(folder / CLASSES)
        if not self.options.templates and (folder / TEMPLATES).is_file():
            own["templates"] = str(folder / TEMPLATES)
        layout = ClipBenchmark(self.specs, self.options.model_copy(update=own), self.reading)
        return open_shards(layout, shards_in(self.folders[split]), f"{folder}, {split}", self.by_line())

    def by_line(self) -> bool:
        """Whether it is a retrieval set, whose ``KEY.txt`` has a caption a line.

        Raises:
            UserError: if the file that says so cannot be read, or names a kind that is not measured here.
        """
        path = self.folder / TYPE
        if not path.is_file():
            return False
        try:
            kind = path.read_text(encoding="utf-8").strip().lower()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}.", "Repair it.") from error
        if kind not in ("", "classification", "retrieval"):
            raise UserError(
                f"{self.folder} is a set of the kind '{kind}', which no task measures.", "Name another one."
            )
        return kind == "retrieval"


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of shards by split, of a folder that has one of the layout's files or only such folders."""
    found = {split_of(path.name): path for path in folder.iterdir() if path.is_dir() and holds_shards(str(path))}
    return {} if "" in found or holds_shards(str(folder)) else found


LAYOUT = ClipBenchmark
