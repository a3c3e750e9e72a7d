"""What every evaluation has in common: its options, what it is given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from distill.errors import UserError
from distill.evals.data_options import DataOptions, Strings
from distill.evals.dataset import Classes, Dataset
from distill.evals.store import Alter, Rows, Store
from distill.evals.subject import Subject
from distill.metrics.resampling import Metric

__all__ = ["Classes", "Context", "Dataset", "Evaluation", "Metric", "Outcome", "Strings", "Subject"]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        metrics: by name.
        counts: how much was measured, such as {"images": 277}.
        details: what else there is to show, as JSON can hold it.
    """

    metrics: Mapping[str, Metric]
    counts: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)


class Unsuitable(UserError):
    """An evaluation cannot be made of this model or with these data."""


@dataclass(frozen=True)
class Context:
    """What an evaluation is given besides its options.

    Attributes:
        subject: what is evaluated.
        data: what it is measured on.
        store: embeds images and texts, once.
        open_data: gives the data of other names, read with the same options.
        open_train: gives the data that classifiers learn from; None if there are none.
        open_teacher: gives the teacher of the subject by its name, or the one that it was distilled from for "";
            raises ``UserError`` if there is none.
    """

    subject: Subject
    data: Dataset
    store: Store
    open_data: Callable[[Sequence[str]], Dataset]
    open_train: Callable[[], Dataset | None]
    open_teacher: Callable[[str], Subject]

    def images(self, data: Dataset | None = None, subject: Subject | None = None) -> Rows:
        """Outputs of images, "embedding" and "pre_logits"; by default of the data, by the subject."""
        return self.store.images(subject or self.subject, data or self.data)

    def altered(self, alter: Alter, name: str) -> Rows:
        """Outputs of the data's images after a change that has a name."""
        return self.store.images(self.subject, self.data, alter, name)

    def texts(self, texts: list[str]) -> np.ndarray:
        """[n, D] unit rows of texts, by the subject."""
        return self.store.texts(self.subject, texts)

    @property
    def train(self) -> Dataset:
        """The data that classifiers learn from.

        Raises:
            Unsuitable: if there are none.
        """
        found = self.open_train()
        if found is None:
            raise Unsuitable(
                "It needs pictures to learn from, and the data have no train split.", "Name them: --train."
            )
        return found


class Evaluation(DataOptions, ABC):
    """One evaluation; the fields of a subclass are its options, which ``--set`` sets.

    A subclass is found by its name: as ``EVALUATION`` of the module ``distill/evals/NAME.py``, or by an entry point
    NAME of the group ``distill.evaluations`` of another installed package.

    Attributes:
        reads: what it needs: "text" of the model; "captions", "classes", "train" of the data; "teacher".
        automatic: whether it is made where no task is named, if the model and the data allow it.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    automatic: ClassVar[bool] = True

    def check(self, context: Context) -> None:
        """Raise ``UserError`` if it cannot be made, before anything is embedded; a subclass may ask for more."""
        for name in self.reads:
            CHECKS[name](context)

    @abstractmethod
    def measure(self, context: Context) -> Outcome:
        """Measure the subject.

        Raises:
            UserError: if the data are not enough.
        """


def check_text(context: Context) -> None:
    """Raise ``Unsuitable`` if the subject embeds no texts."""
    if not context.subject.has_text:
        raise Unsuitable(
            "This model has no text tower: it was trained on images alone.",
            "Use a model that was trained on captions.",
        )


def check_captions(context: Context) -> None:
    """Raise ``UserError`` or ``BadSample`` if a sample has no caption."""
    _ = context.data.captions


def check_classes(context: Context) -> None:
    """Raise ``UserError`` if the data have no classes, or all samples the same."""
    check_several(context.data)


def check_train(context: Context) -> None:
    """Raise ``UserError`` if there is nothing to learn from, or all of it has one class."""
    check_several(context.train)


def check_teacher(context: Context) -> None:
    """Raise ``UserError`` if there is no teacher."""
    context.open_teacher("")


def check_several(data: Dataset) -> None:
    """Raise ``Unsuitable`` if the samples of a data set have fewer than two classes."""
    present = data.classes.present()
    if len(present) < 2:
        name = data.classes.called[int(present[0])] if len(present) else "none"
        raise Unsuitable(f"All samples of {data.name} have one class, {name}.", "Name data with several classes.")


CHECKS: dict[str, Callable[[Context], None]] = {
    "text": check_text,
    "captions": check_captions,
    "classes": check_classes,
    "train": check_train,
    "teacher": check_teacher,
}
