"""Out-of-distribution detection: whether zero-shot classification is less sure of images of no class."""

from __future__ import annotations

import numpy as np

from distill.evals.evaluation import Context, Evaluation, Outcome, Strings, Unsuitable
from distill.evals.prompts import class_rows
from distill.metrics.classification import log_probabilities
from distill.metrics.detection import aupr, auroc, fpr_at_95_tpr
from distill.metrics.resampling import Metric


class OutOfDistribution(Evaluation):
    """The largest softmax probability as the score (Hendrycks and Gimpel, arXiv 1610.02136), as in Three Towers, 4.5.

    Attributes:
        outliers: images of none of the classes, stored like ``data``.
    """

    reads = ("text", "classes")

    outliers: Strings = ()

    def check(self, context: Context) -> None:
        super().check(context)
        if not self.outliers:
            raise Unsuitable("It needs images of none of the classes.", "Name them: --set ood.outliers=DATA.")
        _ = context.open_data(self.outliers)

    def measure(self, context: Context) -> Outcome:
        vectors, temperature = class_rows(context), context.subject.temperature or 0.01
        outliers = context.open_data(self.outliers)
        scores = [
            np.exp(log_probabilities(rows["embedding"] @ vectors.T, temperature)).max(axis=1)
            for rows in (context.images(), context.images(outliers))
        ]
        sets = (scores[0], scores[1])
        share = len(scores[0]) / (len(scores[0]) + len(scores[1]))
        metrics = {
            "auroc": Metric(auroc, sets, 0.5, independent=True),
            "aupr": Metric(aupr, sets, share, independent=True),
            "fpr95": Metric(fpr_at_95_tpr, sets, 0.95, higher_is_better=False, independent=True),
        }
        return Outcome(metrics, {"images": len(scores[0]), "outliers": len(scores[1])})


EVALUATION = OutOfDistribution
