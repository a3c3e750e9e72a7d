"""Combinations of teacher and student: ``α·h(I) + (1 − α)·f(I)`` (Three Towers, arXiv 2305.16999, figure D.3)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from distill.errors import UserError
from distill.evals.evaluation import Context, Evaluation, Outcome, Unsuitable
from distill.evals.prompts import class_rows
from distill.evals.retrieval import Relevance, recall_metrics
from distill.evals.subjects.students import Students
from distill.metrics.classification import top_k_hits
from distill.metrics.resampling import Metric, mean_metric
from distill.ship.load import load
from distill.training.run import is_run


class Alpha(Evaluation):
    """Retrieval, or zero-shot accuracy where the data have classes and no captions, for α from 0 to 1.

    Attributes:
        steps: into how many parts the way from 0 to 1 is divided.
    """

    reads = ("text",)

    steps: int = Field(default=10, gt=0)

    def check(self, context: Context) -> None:
        super().check(context)
        subject = context.subject
        if not isinstance(subject, Students) or subject.path is None or not is_run(subject.path):
            raise Unsuitable("Only a run has a teacher to combine its student with.", "Name the run.")
        load(subject.path, str(subject.model.device), 0.5)

    def measure(self, context: Context) -> Outcome:
        subject = context.subject
        assert isinstance(subject, Students) and subject.path is not None
        blend = load(subject.path, str(subject.model.device), 0.5)
        third, student = (
            context.images(subject=Students(part, f"{subject.name}, {name}"))["embedding"]
            for (_, part), name in zip(blend.parts, ("third tower", "student"), strict=True)
        )
        score, name = scorer(context)
        curve, metrics = [], dict[str, Metric]()
        for step in range(self.steps + 1):
            alpha = step / self.steps
            rows = alpha * third + (1 - alpha) * student
            metric = score(rows / np.linalg.norm(rows, axis=1, keepdims=True))
            metrics[f"{name}_{alpha:.2f}".rstrip("0").rstrip(".")] = metric
            low, high = metric.interval()
            curve.append({"x": alpha, "value": metric.value, "low": low, "high": high})
        details = {"curve": curve, "curve_x": "alpha", "curve_y": name}
        return Outcome(metrics, {"images": len(student)}, details)


def scorer(context: Context):  # type: ignore[no-untyped-def]
    """A function from image rows to the metric of the curve, and its name."""
    try:
        relevance = Relevance.of(context.data.captions)
    except UserError:  # there are no captions
        vectors, classes = class_rows(context), context.data.classes
        return lambda rows: mean_metric(top_k_hits(rows @ vectors.T, classes.labels, 1), 1 / len(vectors)), "top1"
    texts = context.texts(relevance.texts)
    return lambda rows: recall_metrics(rows, texts, relevance)["mean_r10"], "mean_r10"


EVALUATION = Alpha
