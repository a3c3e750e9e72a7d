"""Something to evaluate: an encoder without weights, whose embedding of an image is its mean colour."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.evals.subject import OpenOptions, Prepare, Square, Subject


class Colours(Subject):
    """The mean of each channel."""

    rank = 1
    name = "colours"

    @classmethod
    def recognises(cls, name: str) -> bool:
        return name == "colours"

    @classmethod
    def open(cls, name: str, options: OpenOptions) -> Colours:
        return cls()

    def identity(self) -> str:
        return "colours, version 1"

    def preparations(self) -> Sequence[Prepare]:
        return [Square(8, "bilinear")]

    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        means = inputs[0].float().mean(dim=(2, 3)) / 255
        return {"embedding": torch.nn.functional.normalize(means, dim=1), "pre_logits": means}
