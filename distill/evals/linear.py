"""Linear probe: a linear classifier learns from the pre-logits of all training images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill.evals.evaluation import Context, Evaluation, Outcome
from distill.evals.learned import Labelled
from distill.metrics.classification import top_k_hits
from distill.metrics.classifiers import logistic, ridge
from distill.metrics.resampling import mean_metric


class LinearProbe(Evaluation):
    """Accuracy of a linear classifier.

    Attributes:
        method: "logistic" is scikit-learn's logistic regression; "ridge" a regression in closed form.
        c: the inverse penalty of "logistic".
        l2: the penalty of "ridge".
    """

    reads = ("classes", "train")

    method: Literal["logistic", "ridge"] = "logistic"
    c: float = Field(default=1.0, gt=0)
    l2: float = Field(default=1.0, gt=0)

    def measure(self, context: Context) -> Outcome:
        labelled = Labelled.of(context)
        count = len(labelled.names)
        train, test = context.images(context.train)["pre_logits"], context.images()["pre_logits"]
        if self.method == "logistic":
            classifier = logistic(train, labelled.train, count, self.c)
        else:
            classifier = ridge(train, labelled.train, count, self.l2)
        hits = top_k_hits(classifier.scores(test), labelled.test, 1)
        counts = {"images": len(test), "classes": count, "images_of_unseen_classes": labelled.unseen}
        return Outcome({"accuracy": mean_metric(hits, 1 / count)}, counts)


EVALUATION = LinearProbe
