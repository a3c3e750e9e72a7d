"""A data set of an evaluation: pictures with captions, classes, or both, whatever it is stored as."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from distill.data.captions import Caption
from distill.data.index import KINDS
from distill.data.sample import Sample
from distill.errors import UserError


class Samples(Protocol):
    """Samples that can be read by their number, such as :class:`~distill.data.shards.Shards`."""

    def __len__(self) -> int: ...

    def key(self, i: int) -> str:
        """The key of sample i."""

    def read(self, i: int, kinds: Sequence[str] = ...) -> Sample:
        """Sample i; raises ``BadSample`` if it cannot be read."""


class Chosen:
    """Some samples of others, numbered from 0; it can be pickled.

    Args:
        samples: the others.
        numbers: of those that are chosen.
    """

    def __init__(self, samples: Samples, numbers: np.ndarray) -> None:
        self.samples, self.numbers = samples, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def key(self, i: int) -> str:
        return self.samples.key(int(self.numbers[i]))

    def read(self, i: int, kinds: Sequence[str] = KINDS) -> Sample:
        return self.samples.read(int(self.numbers[i]), kinds)


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        labels: [n] int64, the class of each sample.
        names: for each class its names, the first one for tables; more than one are synonyms.
        templates: texts with {} for a class's name, if the data set brings its own.
    """

    labels: np.ndarray
    names: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.names):
            wrong = int(self.labels.max() if self.labels.min() >= 0 else self.labels.min())
            raise UserError(
                f"A sample has the class number {wrong}, and {len(self.names)} classes have names (0 to "
                f"{len(self.names) - 1}).",
                "Name the file with this data set's classes, in their order.",
            )

    @property
    def called(self) -> list[str]:
        """One name a class, with its number where another class has the same name, as two of ImageNet do."""
        first = [names[0] for names in self.names]
        times = Counter(first)
        return [f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(first)]

    def present(self) -> np.ndarray:
        """The numbers of the classes that samples have, ascending."""
        return np.unique(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Samples, with what is known of them.

    Attributes:
        name: for tables and results.
        samples: the pictures.
        identity: changes if the samples or their order do.
        read_captions: gives a sample's captions by its number; raises ``BadSample`` if there are none.
        read_classes: gives the classes; raises ``UserError`` if there are none.
    """

    name: str
    samples: Samples
    identity: str
    read_captions: Callable[[int], list[Caption]]
    read_classes: Callable[[], Classes]
    _known: dict[str, Classes | list[list[Caption]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, numbers: np.ndarray) -> Dataset:
        """Some of the samples, by their numbers, in that order; with their classes, which must be known."""
        classes = self.classes
        chosen = Classes(classes.labels[numbers], classes.names, classes.templates)
        identity = hashlib.sha256(self.identity.encode() + np.asarray(numbers, dtype=np.int64).tobytes()).hexdigest()
        return Dataset(
            f"{self.name}, {len(numbers)} of {len(self)}",
            Chosen(self.samples, numbers),
            identity,
            lambda i: self.read_captions(int(numbers[i])),
            lambda: chosen,
        )

    @property
    def classes(self) -> Classes:
        """The classes, read once.

        Raises:
            UserError: if the samples have none, or they do not fit the names of classes.
        """
        if "classes" not in self._known:
            self._known["classes"] = self.read_classes()
        return self._known["classes"]  # type: ignore[return-value]

    @property
    def captions(self) -> list[list[Caption]]:
        """The captions of every sample, read once.

        Raises:
            BadSample: if a sample has none.
        """
        if "captions" not in self._known:
            self._known["captions"] = [self.read_captions(i) for i in range(len(self))]
        return self._known["captions"]  # type: ignore[return-value]
