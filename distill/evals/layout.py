"""The ways in which evaluation data are stored: one file each in ``layouts/``, found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

from distill import plugins
from distill.data.captions import Captions
from distill.errors import Bad, UserError
from distill.evals.data_options import DataOptions
from distill.evals.dataset import Dataset

LAYOUTS = ("distill.evals.layouts", "LAYOUT", "distill.evaluation_layouts")
TEST, TRAIN, VAL = "test", "train", "val"


@dataclass(frozen=True)
class Reading:
    """How evaluation data are read.

    Attributes:
        captions: how captions are read from samples.
        skip_bad: leave out samples that cannot be used, instead of raising.
        bad: receives the records of the samples that are left out.
    """

    captions: Captions
    skip_bad: bool = False
    bad: list[Bad] = field(default_factory=list)


class Layout(ABC):
    """Evaluation data of one kind, divided into splits.

    Attributes:
        rank: kinds with lower numbers are asked first whether data are theirs.
    """

    rank: ClassVar[int]

    def __init__(self, specs: Sequence[str], options: DataOptions, reading: Reading) -> None:
        self.specs, self.options, self.reading = tuple(specs), options, reading

    @classmethod
    @abstractmethod
    def recognises(cls, specs: Sequence[str]) -> bool:
        """Whether data named so are of this kind."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """The splits that there are, such as "test" and "train"; one named "" if the data are not divided.

        Raises:
            UserError: if the data cannot be read.
        """

    @abstractmethod
    def open(self, split: str) -> Dataset:
        """One of the splits.

        Raises:
            UserError: if it cannot be read, or no sample is left.
            BadSample: unless bad samples are skipped, if one cannot be used.
        """


@cache
def kinds() -> tuple[type[Layout], ...]:
    """All kinds of layouts, in the order in which they are asked."""
    found = [plugins.load("layout", name, *LAYOUTS, plugins.is_subclass(Layout)) for name in plugins.found(*LAYOUTS)]
    return tuple(sorted(found, key=lambda kind: kind.rank))


def layout_of(specs: Sequence[str], options: DataOptions, reading: Reading) -> Layout:
    """The data with these names, of the first kind that recognises them; shards are the last one."""
    return next(kind for kind in kinds() if kind.recognises(specs))(specs, options, reading)


def open_data(options: DataOptions, reading: Reading) -> Dataset:
    """The data set that ``options.data`` names: its test split where it is divided, or else "val".

    Raises:
        UserError: if it is divided and has neither.
    """
    layout = layout_of(options.data, options, reading)
    splits = layout.splits()
    wanted = next((split for split in ("", TEST, VAL) if split in splits), None)
    if wanted is None:
        if len(splits) == 1:
            return layout.open(splits[0])
        raise UserError(
            f"{', '.join(options.data)} has the splits {', '.join(splits)}, of which none is for testing.",
            "Name the data of one split.",
        )
    return layout.open(wanted)


def open_train(options: DataOptions, reading: Reading) -> Dataset | None:
    """The data set that classifiers learn from: ``options.train``, or the train split of ``options.data``."""
    layout = layout_of(options.train or options.data, options, reading)
    splits = layout.splits()
    if options.train:
        return layout.open(TRAIN if TRAIN in splits else splits[0])
    return layout.open(TRAIN) if TRAIN in splits and len(splits) > 1 else None
