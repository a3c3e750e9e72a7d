"""An optimiser that treats kernels otherwise than the rest: own groups, and other state for each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from distill.training.optimizer import Optimizer


class MomentumOrRms(Optimizer):
    """Momentum for kernels, a running mean of squares for everything else.

    Attributes:
        decay: of both running means.
    """

    highest_stage: ClassVar[int] = 2
    stage_reason: ClassVar[str] = "It has not been tried at stage 3."

    decay: float = 0.9

    def group_of(self, name: str, parameter: nn.Parameter, kernel: bool) -> Mapping[str, Hashable]:
        return {"kernel": kernel}

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Both(groups, {"decay": self.decay})


class Both(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, name = self.state[parameter], "momentum" if group["kernel"] else "squares"
                mean = state.setdefault(name, torch.zeros_like(parameter))
                if group["kernel"]:
                    mean.mul_(group["decay"]).add_(parameter.grad)
                    update = mean
                else:
                    mean.mul_(group["decay"]).addcmul_(parameter.grad, parameter.grad, value=1 - group["decay"])
                    update = parameter.grad / (mean.sqrt() + 1e-6)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)
