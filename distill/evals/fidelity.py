"""Fidelity: how much of what its teacher tells apart a student tells apart too."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from distill.errors import UserError
from distill.evals.evaluation import Context, Evaluation, Outcome
from distill.evals.learned import Labelled
from distill.metrics.classification import top_k_hits
from distill.metrics.classifiers import nearest_neighbours, ridge
from distill.metrics.resampling import Metric, mean, mean_metric
from distill.metrics.similarity import ResampledCKA, linear_cka, neighbour_overlap

FEW = 2000  # samples whose products are kept for the interval of the CKA: 32 MB


class Fidelity(Evaluation):
    """Similarity of the two spaces, and the share of the teacher's accuracy that the student keeps.

    Linear CKA (arXiv 1905.00414) and the overlap of nearest neighbours need no classes. With classes and training
    images also: the share of images on which both predict the same class, and retention, the student's accuracy
    divided by the teacher's, with k nearest neighbours and with a linear classifier on pre-logits (in closed form).

    Attributes:
        teacher: the teacher's card; by default the first one of the student's recipe.
        k: of the nearest neighbours.
        l2: the penalty of the linear classifiers.
    """

    reads = ()

    teacher: str = ""
    k: int = Field(default=5, gt=0)
    l2: float = Field(default=1.0, gt=0)

    def check(self, context: Context) -> None:
        super().check(context)
        context.open_teacher(self.teacher)

    def measure(self, context: Context) -> Outcome:
        teacher = context.open_teacher(self.teacher)
        own, its = context.images(), context.images(subject=teacher)
        metrics = {
            "cka": cka_metric(own["embedding"], its["embedding"]),
            "neighbour_overlap": mean_metric(
                neighbour_overlap(own["embedding"], its["embedding"], min(self.k, len(own["embedding"]) - 1))
            ),
        }
        counts = {"images": len(own["embedding"])}
        try:
            labelled = Labelled.of(context)
        except UserError as error:
            return Outcome(metrics, counts, {"teacher": teacher.name, "without_retention": str(error)})
        train = [context.images(context.train, one) for one in (context.subject, teacher)]
        count, k = len(labelled.names), min(self.k, len(labelled.train))
        votes = [
            nearest_neighbours(known["embedding"], labelled.train, rows["embedding"], k, count)
            for known, rows in zip(train, (own, its), strict=True)
        ]
        scores = [
            ridge(known["pre_logits"], labelled.train, count, self.l2).scores(rows["pre_logits"])
            for known, rows in zip(train, (own, its), strict=True)
        ]
        metrics["agreement"] = mean_metric(votes[0].argmax(axis=1) == votes[1].argmax(axis=1))
        for name, pair in (("knn", votes), ("linear", scores)):
            hits = [top_k_hits(one, labelled.test, 1) for one in pair]
            metrics[f"student_{name}"] = mean_metric(hits[0], 1 / count)
            metrics[f"teacher_{name}"] = mean_metric(hits[1], 1 / count)
            metrics[f"retention_{name}"] = Metric(ratio_of_means, (hits[0], hits[1]))
        return Outcome(metrics, counts | {"classes": count}, {"teacher": teacher.name})


def cka_metric(own: np.ndarray, its: np.ndarray) -> Metric:
    """Linear CKA, whose interval takes long: of many samples it is from fewer resamples."""
    if len(own) <= FEW:
        return Metric(ResampledCKA(own, its), (np.arange(len(own)),), rounds=300)
    return Metric(linear_cka, (own, its), rounds=30)


def ratio_of_means(first: np.ndarray, second: np.ndarray) -> float:
    """The mean of the first array divided by that of the second; NaN if that is 0."""
    return mean(first) / mean(second) if np.any(second) else float("nan")


EVALUATION = Fidelity
