"""Adafactor as Three Towers and LiT use it (arXiv 2106.04560, section 3.4)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from distill.training.optimizer import Optimizer


class Adafactor(Optimizer):
    """The modified Adafactor of arXiv 2106.04560, section 3.4; timm's port of big_vision's.

    Factored second moments, first moment in bfloat16, no relative step size.

    Attributes:
        betas: two numbers, each from 0 to below 1: the decay rate of the average of the gradient, and the upper bound
            of that of its square.
    """

    highest_stage: ClassVar[int] = 0
    stage_reason: ClassVar[str] = "ZeRO flattens every parameter into one vector, which leaves nothing to factor."

    betas: tuple[float, float] = (0.9, 0.99)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import timm.optim

        adafactor: torch.optim.Optimizer = timm.optim.AdafactorBigVision(
            groups, momentum=self.betas[0], beta2_cap=self.betas[1], min_dim_size_to_factor=32
        )
        return adafactor


OPTIMIZER = Adafactor
