"""An exponential moving average of the weights, kept in the optimiser's state.

There it is partitioned at ZeRO stages 1 to 3 like everything else in that state, saved with it and loaded with it by
any number of processes at any stage, and made of the float32 weights. Steps that are skipped because a value was not
finite do not call the optimiser, and so leave it as it is.

Running statistics of batch norms are not averaged: they are moving averages already, over fewer steps.
"""

from __future__ import annotations

from typing import Any

import torch

from distill.errors import UserError
from distill.training.model import Model
from launch.zero import AVERAGE

UPDATES = f"{AVERAGE}_updates"  # how often an average has been updated


def keep_average(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Have an optimiser keep the average of every weight: ``ema ← d · ema + (1 − d) · weight`` after each step.

    At first the average is the initial weight, and ``d = min(decay, (1 + t) / (10 + t))`` with t updates so far, so
    that the initial weights are soon forgotten: TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.

    Args:
        optimizer: a torch optimiser; DeepSpeed may wrap it afterwards, and call it for one parameter group after the
            other.
        decay: the largest d, below 1.
    """
    initial: dict[torch.Tensor, torch.Tensor] = {}  # between the two hooks of a parameter's first step

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Not written into the state yet: optimisers set theirs up when it is empty.
        for parameter in stepped(optimizer):
            if AVERAGE not in optimizer.state.get(parameter, {}):
                initial[parameter] = parameter.detach().clone()

    @torch.no_grad()
    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in stepped(optimizer):
            state = optimizer.state[parameter]
            if AVERAGE not in state:
                state[AVERAGE], state[UPDATES] = initial.pop(parameter), 0
            updates = state[UPDATES]
            state[AVERAGE].lerp_(parameter.detach(), 1 - min(decay, (1 + updates) / (10 + updates)))
            state[UPDATES] = updates + 1

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def stepped(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The parameters, or pieces of flat ones, that a step changes."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def check_average(model: Model, decay: float) -> None:
    """Raise ``UserError`` if an average is asked for and no student has a weight that changes."""
    if decay and not any(p.requires_grad for tower in model.towers.values() for p in tower.parameters()):
        raise UserError(
            "train.ema averages the weights of the students, and all of them are locked.",
            "Set train.ema = 0, or lock fewer parts.",
        )
