"""Calibration: whether zero-shot probabilities at the learned temperature are as often right as they say."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from pydantic import Field

from distill.errors import UserError
from distill.evals.evaluation import Context, Evaluation, Outcome, Unsuitable
from distill.evals.prompts import class_rows
from distill.metrics.classification import (
    brier,
    expected_calibration_error,
    fit_temperature,
    log_probabilities,
    negative_log_likelihoods,
    reliability,
    top_k_hits,
)
from distill.metrics.resampling import Metric, mean_metric


class Calibration(Evaluation):
    """Negative log-likelihood, Brier score and expected calibration error of zero-shot classification.

    Three Towers reports these (arXiv 2305.16999, section 4.5); the calibration error is that of Guo et al. (arXiv
    1706.04599), in bins of equal width.

    Attributes:
        bins: of the calibration error and the reliability diagram.
    """

    reads = ("text", "classes")

    bins: int = Field(default=15, gt=0)

    def check(self, context: Context) -> None:
        super().check(context)
        if context.subject.temperature is None:
            raise Unsuitable("It has no learned temperature.", "Choose a model with one.")

    def measure(self, context: Context) -> Outcome:
        classes, temperature = context.data.classes, context.subject.temperature
        assert temperature is not None
        similarities = context.images()["embedding"] @ class_rows(context).T
        log_probs, count = log_probabilities(similarities, temperature), len(classes.names)
        probabilities = np.exp(log_probs)
        confidences, hits = probabilities.max(axis=1), top_k_hits(similarities, classes.labels, 1)
        losses = negative_log_likelihoods(log_probs, classes.labels)
        metrics = {
            "nll": mean_metric(losses, float(np.log(count)), higher_is_better=False),
            "brier": mean_metric(brier(probabilities, classes.labels), 1 - 1 / count, higher_is_better=False),
            "ece": Metric(CalibrationError(self.bins), (confidences, hits), higher_is_better=False),
            "accuracy": mean_metric(hits, 1 / count),
        }
        details = {"bins": bins_of(confidences, hits, self.bins), "temperature": temperature}
        with suppress(UserError):  # without SciPy
            details["best_temperature"] = fit_temperature(similarities, classes.labels)
        return Outcome(metrics, {"images": len(hits), "classes": count}, details)


def bins_of(confidences: np.ndarray, hits: np.ndarray, bins: int) -> list[dict[str, float]]:
    """The bins of the reliability diagram that have samples."""
    found = reliability(np.clip(confidences, 0, 1), hits, bins)
    names = ("low", "high", "count", "confidence", "accuracy")
    rows = [dict(zip(names, map(float, values), strict=True)) for values in zip(*found, strict=True)]
    return [row | {"count": int(row["count"])} for row in rows if row["count"]]


class CalibrationError:
    """The statistic expected_calibration_error with a number of bins."""

    def __init__(self, bins: int) -> None:
        self.bins = bins

    def __call__(self, confidences: np.ndarray, hits: np.ndarray) -> float:
        return expected_calibration_error(np.clip(confidences, 0, 1), hits, self.bins)


EVALUATION = Calibration
