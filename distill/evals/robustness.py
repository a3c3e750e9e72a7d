"""Robustness: accuracy on corrupted images, as ImageNet-C measures it (arXiv 1903.12261)."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image
from pydantic import field_validator

from distill.evals.evaluation import Context, Evaluation, Outcome, Strings
from distill.evals.learned import Labelled
from distill.evals.prompts import class_rows
from distill.metrics import corruptions
from distill.metrics.classification import top_k_hits
from distill.metrics.classifiers import nearest_neighbours
from distill.metrics.resampling import mean_metric

NEIGHBOURS = 20


class Robustness(Evaluation):
    """Accuracy, zero-shot or without a text tower by the nearest training images, on images changed in 15 ways.

    Attributes:
        corruptions: the changes; none means all.
        severities: from 1 to 5.
    """

    reads = ("classes",)
    automatic = False  # it embeds the data 75 times

    corruptions: Strings = ()
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)

    @field_validator("corruptions")
    @classmethod
    def known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in corruptions.NAMES]:
            raise ValueError(f"'{unknown[0]}' is none of {', '.join(corruptions.NAMES)}")
        return value

    @field_validator("severities")
    @classmethod
    def in_range(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not all(1 <= severity <= 5 for severity in value):
            raise ValueError("must be whole numbers from 1 to 5")
        return value

    def check(self, context: Context) -> None:
        super().check(context)
        if not context.subject.has_text:
            _ = Labelled.of(context)

    def measure(self, context: Context) -> Outcome:
        classify = zero_shot(context) if context.subject.has_text else by_neighbours(context)
        clean, found, by_corruption = classify(context.images()["embedding"]), [], []
        for name in self.corruptions or corruptions.NAMES:
            for severity in sorted(set(self.severities)):
                rows = context.altered(partial(corrupted, name, severity), f"{name} {severity}")["embedding"]
                hits = classify(rows)
                found.append(hits)
                by_corruption.append({"corruption": name, "severity": severity, "accuracy": float(hits.mean())})
        count = len(context.data.classes.names)
        metrics = {
            "accuracy": mean_metric(clean, 1 / count),
            "corrupted_accuracy": mean_metric(np.mean(found, axis=0), 1 / count),
        }
        return Outcome(metrics, {"images": len(clean), "classes": count}, {"by_corruption": by_corruption})


def corrupted(name: str, severity: int, picture: Image.Image, key: str) -> Image.Image:
    """A picture after a corruption."""
    return corruptions.apply(name, picture, severity, key)


def zero_shot(context: Context):  # type: ignore[no-untyped-def]
    """A function from image rows to whether each is classified right by the texts about the classes."""
    vectors, labels = class_rows(context), context.data.classes.labels
    return lambda rows: top_k_hits(rows @ vectors.T, labels, 1)


def by_neighbours(context: Context):  # type: ignore[no-untyped-def]
    """A function from image rows to whether each is classified right by its nearest training images."""
    labelled, train = Labelled.of(context), context.images(context.train)["embedding"]
    k, count = min(NEIGHBOURS, len(train)), len(labelled.names)
    return lambda rows: top_k_hits(nearest_neighbours(train, labelled.train, rows, k, count), labelled.test, 1)


EVALUATION = Robustness
