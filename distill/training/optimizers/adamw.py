"""AdamW (arXiv 1711.05101)."""

from __future__ import annotations

from typing import Any

import torch

from distill.training.optimizer import Optimizer


class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2); torch's.

    Attributes:
        betas: two numbers, each from 0 to below 1: the decay rates of the averages of the gradient and of its square.
    """

    betas: tuple[float, float] = (0.9, 0.99)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=self.betas)


OPTIMIZER = AdamW
