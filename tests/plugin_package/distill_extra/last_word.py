"""An evaluation with options of its own: nearest neighbours among the images of a training set, by captions."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from distill.evals.evaluation import Context, Evaluation, Outcome
from distill.metrics.resampling import mean_metric


class LastWord(Evaluation):
    """The share of images whose class, the last word of the caption, most of their neighbours share.

    Attributes:
        k: how many neighbours vote.
    """

    reads = ("captions",)

    k: int = Field(default=5, gt=0)

    def check(self, context: Context) -> None:
        super().check(context)
        _ = context.train.captions

    def measure(self, context: Context) -> Outcome:
        known, own = (context.images(data)["embedding"] for data in (context.train, context.data))
        labels = [[own[0].text.split()[-1] for own in data.captions] for data in (context.train, context.data)]
        nearest = np.argsort(-own @ known.T, axis=1)[:, : self.k]
        votes = [[labels[0][i] for i in row] for row in nearest.tolist()]
        right = [max(set(vote), key=vote.count) == label for vote, label in zip(votes, labels[1], strict=True)]
        return Outcome({"accuracy": mean_metric(np.array(right))}, {"images": len(own)}, {"k": self.k})
