"""The learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.config import Optim


@dataclass(frozen=True)
class GroupSchedule:
    """A parameter group's learning-rate settings: ``lr_scale`` and ``delay`` of its tower.

    Attributes:
        scale: factor on the recipe's learning rate.
        delay: the fraction of all steps, 0 to 1, during which the learning rate is zero.
    """

    scale: float = 1.0
    delay: float = 0.0


def learning_rate(step: int, total: int, optim: Optim, schedule: GroupSchedule = GroupSchedule()) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay to zero.

    It depends on the step alone, so a resumed run needs no scheduler state. With a delay it is zero at first, and
    warm-up and decay take the remaining steps (LiT, arXiv 2111.07991, appendix F).

    Args:
        step: counted from 0.
        total: number of steps of the whole run.
        optim: the recipe's ``lr`` and ``warmup``.
        schedule: the settings of the parameter group.
    """
    delay = min(round(schedule.delay * total), total - 1)
    if step < delay:
        return 0.0
    step, total = step - delay, total - delay
    warmup = optim.warmup * total if optim.warmup < 1 else optim.warmup
    if step < warmup:
        return schedule.scale * optim.lr * min(1.0, (step + 1) / max(1.0, warmup))
    progress = (step - warmup) / max(1.0, total - warmup)
    return schedule.scale * optim.lr * (1 + math.cos(math.pi * min(1.0, progress))) / 2
