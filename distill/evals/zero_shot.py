"""Zero-shot classification: an image gets the class whose texts are nearest (CLIP, arXiv 2103.00020, section 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from distill.evals.evaluation import Context, Dataset, Evaluation, Outcome, Unsuitable
from distill.evals.prompts import template_rows, vectors_of
from distill.evals.templates import PLAIN
from distill.metrics.classification import mean_per_class_recall, per_class, top_k_hits
from distill.metrics.resampling import Metric, mean_metric


class ZeroShot(Evaluation):
    """Top-1 and top-5 accuracy, with the texts of all templates and all names of a class averaged.

    Attributes:
        search: how many templates to choose, one after the other, each the one that raises the accuracy on ``train``
            most, as LiT does on a small validation set (arXiv 2111.07991, appendix); 0 takes all.
        search_images: how many images of ``train`` that choice looks at.
    """

    reads = ("text", "classes")

    search: int = Field(default=0, ge=0)
    search_images: int = Field(default=2000, gt=0)

    def check(self, context: Context) -> None:
        super().check(context)
        if self.search and len(context.data.classes.templates) < 2:
            raise Unsuitable("There is only one template to choose from.", "Name a file: --set templates=FILE.")
        if self.search:
            _ = context.train.classes

    def measure(self, context: Context) -> Outcome:
        classes = context.data.classes
        templates = classes.templates or PLAIN
        rows, details = template_rows(context, classes, templates), dict[str, Any]()
        if self.search:
            chosen = choose(rows, *self.validation(context), self.search)
            rows = [rows[k] for k in chosen]
            details = {"templates": [templates[k] for k in chosen]}
        vectors = vectors_of(rows)
        if equal := equal_rows(vectors):
            details["classes_with_equal_texts"] = equal
        scores = context.images()["embedding"] @ vectors.T
        labels, count = classes.labels, len(classes.names)
        hits = {k: top_k_hits(scores, labels, k) for k in (1, 5) if k < count}
        metrics = {f"top{k}": mean_metric(own, min(1.0, k / count)) for k, own in hits.items()}
        metrics["mean_per_class"] = Metric(mean_per_class_recall, (hits[1], labels), 1 / count)
        counts, means = per_class(hits[1], labels, count)
        by_class = [
            {"class": name, "count": int(n), "accuracy": float(share)}
            for name, n, share in zip(classes.called, counts, means, strict=True)
            if n
        ]
        return Outcome(metrics, {"images": len(labels), "classes": count}, details | {"by_class": by_class})

    def validation(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Rows and labels of the images on which templates are chosen, evenly spaced in ``train``."""
        train: Dataset = context.train
        chosen = np.unique(np.linspace(0, len(train) - 1, min(self.search_images, len(train))).astype(int))
        return context.images(train)["embedding"][chosen], train.classes.labels[chosen]


def equal_rows(vectors: np.ndarray) -> int:
    """How many rows are equal to another one: their texts differ only in what the text tower does not read."""
    _, counts = np.unique(vectors.round(6), axis=0, return_counts=True)
    return int(counts[counts > 1].sum())


def choose(rows: list[list[np.ndarray]], images: np.ndarray, labels: np.ndarray, most: int) -> list[int]:
    """Greedy choice of templates: the numbers of those that raise the accuracy, in the order of being chosen."""
    chosen: list[int] = []
    best = -1.0
    while len(chosen) < most:
        left = [k for k in range(len(rows)) if k not in chosen]
        scored = [
            (float(top_k_hits(images @ vectors_of([rows[j] for j in (*chosen, k)]).T, labels, 1).mean()), -k)
            for k in left
        ]
        if not scored or max(scored)[0] <= best:
            break
        best, number = max(scored)
        chosen.append(-number)
    return chosen


EVALUATION = ZeroShot
