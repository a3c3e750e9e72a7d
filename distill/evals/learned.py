"""Labelled images to learn from and to test on, with their classes numbered alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.evals.evaluation import Context, Unsuitable


@dataclass(frozen=True)
class Labelled:
    """Labels of the training images and of those measured, as numbers of the same classes.

    Attributes:
        train: [m] int64, labels of the training images.
        test: [n] int64; −1 for a class that no training image has.
        names: of the classes.
    """

    train: np.ndarray
    test: np.ndarray
    names: list[str]

    @property
    def unseen(self) -> int:
        """The number of test images whose class no training image has."""
        return int((self.test < 0).sum())

    @classmethod
    def of(cls, context: Context) -> Labelled:
        """The labels of a context's two data sets, whose classes are matched by their names.

        Raises:
            Unsuitable: if they have no class in common.
        """
        known, own = context.train.classes, context.data.classes
        present = [known.called[k] for k in known.present()]
        number = {name: k for k, name in enumerate(present)}
        train = np.array([number[known.called[label]] for label in known.labels], dtype=np.int64)
        test = np.array([number.get(own.called[label], -1) for label in own.labels], dtype=np.int64)
        if (test < 0).all():
            raise Unsuitable(
                f"{context.train.name} and {context.data.name} have no class in common.",
                "Name data with the same classes, or one file of classes for both: --classes FILE.",
            )
        return cls(train, test, present)
