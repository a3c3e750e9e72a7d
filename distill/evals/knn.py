"""k nearest neighbours: training images near an image vote for its class; nothing is learned."""

from __future__ import annotations

from pydantic import Field

from distill.evals.evaluation import Context, Evaluation, Outcome, Unsuitable
from distill.evals.learned import Labelled
from distill.metrics.classification import top_k_hits
from distill.metrics.classifiers import nearest_neighbours
from distill.metrics.resampling import mean_metric


class NearestNeighbours(Evaluation):
    """Accuracy of the votes of the nearest training images by cosine similarity.

    Attributes:
        k: how many vote.
        temperature: a neighbour's vote weighs exp(similarity / temperature), as in DINO (arXiv 2104.14294); 0 gives
            all the same weight.
    """

    reads = ("classes", "train")

    k: int = Field(default=20, gt=0)
    temperature: float = Field(default=0.07, ge=0)

    def check(self, context: Context) -> None:
        super().check(context)
        if self.k > len(context.train):
            raise Unsuitable(
                f"There are {len(context.train)} training images, fewer than k = {self.k}.", "Set a smaller k."
            )

    def measure(self, context: Context) -> Outcome:
        labelled = Labelled.of(context)
        train, test = context.images(context.train)["embedding"], context.images()["embedding"]
        votes = nearest_neighbours(train, labelled.train, test, self.k, len(labelled.names), self.temperature or None)
        hits = top_k_hits(votes, labelled.test, 1)
        counts = {"images": len(test), "classes": len(labelled.names), "images_of_unseen_classes": labelled.unseen}
        return Outcome({"accuracy": mean_metric(hits, 1 / len(labelled.names))}, counts)


EVALUATION = NearestNeighbours
