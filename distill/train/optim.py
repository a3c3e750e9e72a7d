"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distill.config import Optim, Recipe
from distill.tables import TowerTable


@dataclass(frozen=True)
class Pace:
    """How a group of parameters learns, compared with the others: a tower's ``lr_scale`` and ``delay``."""

    scale: float = 1.0
    delay: float = 0.0


def learning_rate(step: int, total: int, optim: Optim, pace: Pace = Pace()) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay to zero.

    A function of the step alone, so a resumed run needs no scheduler state. With a delay it is zero at first, and the
    whole schedule fills the rest (LiT, arXiv 2111.07991, appendix F).

    Args:
        step: counted from 0.
        total: steps of the whole run.
    """
    late = min(round(pace.delay * total), total - 1)
    if step < late:
        return 0.0
    step, total = step - late, total - late
    warmup = optim.warmup * total if optim.warmup < 1 else optim.warmup
    if step < warmup:
        return pace.scale * optim.lr * min(1.0, (step + 1) / max(1.0, warmup))
    progress = (step - warmup) / max(1.0, total - warmup)
    return pace.scale * optim.lr * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, list[Pace]]:
    """The optimiser of a recipe, and the pace of each of its parameter groups.

    Weight decay is for matrices only, not for biases, norms and the temperature.
    """
    paces = {name: Pace(t.lr_scale, t.delay) for name, t in vars(recipe.student).items() if isinstance(t, TowerTable)}
    members: dict[tuple[Pace, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = recipe.optim.weight_decay if parameter.ndim > 1 else 0.0
            members.setdefault((paces.get(name.split(".")[0], Pace()), decay), []).append(parameter)
    groups = [{"params": parameters, "weight_decay": decay} for (_, decay), parameters in members.items()]
    return OPTIMIZERS[recipe.optim.name](groups, recipe.optim), [pace for pace, _ in members]


def adamw(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101)."""
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)


def adafactor(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """The modified Adafactor of arXiv 2106.04560, section 3.4, as Three Towers and LiT use it.

    Factored second moments, first moment in bfloat16, no relative step size; timm's port of big_vision's.
    """
    import timm.optim

    adafactor: torch.optim.Optimizer = timm.optim.AdafactorBigVision(
        groups, lr=optim.lr, momentum=optim.betas[0], beta2_cap=optim.betas[1], min_dim_size_to_factor=32
    )
    return adafactor


OPTIMIZERS = {"adamw": adamw, "adafactor": adafactor}
