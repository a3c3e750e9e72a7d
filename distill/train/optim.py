"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from distill.config import Optim


def learning_rate(step: int, total: int, optim: Optim) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay to zero.

    A function of the step alone, so a resumed run needs no scheduler state.

    Args:
        step: counted from 0.
        total: steps of the whole run.
    """
    warmup = optim.warmup * total if optim.warmup < 1 else optim.warmup
    if step < warmup:
        return optim.lr * min(1.0, (step + 1) / max(1.0, warmup))
    progress = (step - warmup) / max(1.0, total - warmup)
    return optim.lr * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The optimiser of a recipe; weight decay on matrices only, not on biases, norms and the temperature."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return OPTIMIZERS[optim.name](groups, optim)


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
