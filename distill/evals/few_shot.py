"""Few-shot classification: a linear classifier learns from a few images a class, as in LiT and Three Towers."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from distill.evals.evaluation import Context, Evaluation, Outcome
from distill.evals.learned import Labelled
from distill.metrics.classification import top_k_hits
from distill.metrics.classifiers import L2, few_shot_choice, logistic, ridge
from distill.metrics.resampling import mean_metric

MANY = 20_000  # training images, from which on only those are embedded that are learned from


class FewShot(Evaluation):
    """Accuracy of linear classifiers on pre-logits, mean over several draws of the training images.

    Attributes:
        shots: how many images of each class are learned from; one classifier for each number.
        seeds: how many draws.
        method: "ridge" is regression on the classes with a squared penalty in closed form, as in Three Towers (arXiv
            2305.16999, section 4.1); "logistic" scikit-learn's logistic regression.
        l2: the penalty of "ridge", for features of variance 1; the default is that of the papers' code.
        c: the inverse penalty of "logistic".
    """

    reads = ("classes", "train")

    shots: tuple[int, ...] = (1, 5, 10)
    seeds: int = Field(default=3, gt=0)
    method: Literal["ridge", "logistic"] = "ridge"
    l2: float = Field(default=L2, gt=0)
    c: float = Field(default=1.0, gt=0)

    def check(self, context: Context) -> None:
        super().check(context)
        few_shot_choice(Labelled.of(context).train, max(self.shots), 0)

    def measure(self, context: Context) -> Outcome:
        labelled = Labelled.of(context)
        count = len(labelled.names)
        # Of many images only those that are learned from are embedded; those of fewer shots are among those of more.
        # Few are embedded whole, as other tasks need all of them.
        most = [few_shot_choice(labelled.train, max(self.shots), seed) for seed in range(self.seeds)]
        used = np.unique(np.concatenate(most)) if len(context.train) > MANY else np.arange(len(context.train))
        data = context.train.subset(used) if len(used) < len(context.train) else context.train
        train, test, labels = context.images(data)["pre_logits"], context.images()["pre_logits"], labelled.train[used]
        metrics, curve = {}, []
        for shots in sorted(set(self.shots)):
            hits = []
            for seed in range(self.seeds):
                chosen = np.searchsorted(used, few_shot_choice(labelled.train, shots, seed))
                hits.append(top_k_hits(self.fit(train[chosen], labels[chosen], count).scores(test), labelled.test, 1))
            metric = mean_metric(np.mean(hits, axis=0), 1 / count)
            metrics[f"accuracy_{shots}shot"] = metric
            low, high = metric.interval()
            curve.append({"x": shots, "value": metric.value, "low": low, "high": high})
        counts = {"images": len(test), "classes": count}
        return Outcome(metrics, counts, {"curve": curve, "curve_x": "shots", "curve_y": "accuracy"})

    def fit(self, features: np.ndarray, labels: np.ndarray, count: int):  # type: ignore[no-untyped-def]
        """The classifier of a draw."""
        if self.method == "ridge":
            return ridge(features, labels, count, self.l2)
        return logistic(features, labels, count, self.c)


EVALUATION = FewShot
