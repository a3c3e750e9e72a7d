"""An evaluation with options and data of its own: nearest neighbours among the images of a training set."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from distill.errors import UserError
from distill.evals.evaluation import Context, Evaluation
from distill.ship.embed import embed_images
from distill.ship.image_text import ImageText


class NearestNeighbours(Evaluation):
    """The share of images whose class, the last word of the caption, most of their neighbours share.

    Attributes:
        train: the shards with the neighbours.
        k: how many neighbours vote.
    """

    train: str = ""
    k: int = Field(default=5, gt=0)

    def evaluate(self, model: ImageText, context: Context) -> dict[str, Any]:
        if not self.train:
            raise UserError("The evaluation 'knn' needs neighbours.", "Name shards with --set train=SHARDS.")
        sets = [context.open(specs, context.captions) for specs in ([self.train], self.data)]
        known, own = (embed_images(model, shards, context.workers) for shards in sets)
        labels = [[context.captions.read(s.read(i))[0].text.split()[-1] for i in range(len(s))] for s in sets]
        nearest = (own @ known.T).topk(self.k).indices.tolist()
        votes = [[labels[0][i] for i in row] for row in nearest]
        right = [max(set(vote), key=vote.count) == label for vote, label in zip(votes, labels[1], strict=True)]
        return {"task": "knn", "k": self.k, "metrics": {"accuracy": float(torch.tensor(right).float().mean())}}
