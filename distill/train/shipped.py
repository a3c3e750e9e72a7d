"""What of a model ships: its two students, each head that stands between them folded in."""

from __future__ import annotations

import torch
from torch import nn

from distill.train.model import Model
from distill.train.spaces import SharedSpace
from launch import zero


def student_tensors(model: Model) -> dict[str, torch.Tensor]:
    """What ships of a model, on the CPU: ``image.*``, ``text.*`` and ``scale`` (1/τ). No teacher, no heads.

    Of towers that were trained without heads also ``adapter.*`` of the first teacher, for evaluations that combine it
    with the student; that does not ship.
    """
    tensors: dict[str, torch.Tensor] = {}
    with zero.whole_parameters(model):
        for name, tower, head in (("image", model.image, "f_g"), ("text", model.text, "g_f")):
            state = on_cpu(tower)
            if head in model.between:
                fold(state, tower.projection(), on_cpu(model.between[head])["weight"])  # type: ignore[operator]
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
        first = next(iter(model.spaces), None)
        if isinstance(first, SharedSpace) and not first.heads:
            tensors |= {f"adapter.{key}": value for key, value in on_cpu(first.adapter).items()}
        scale = model.scale()[:1].detach().cpu().clone()
    return tensors | {"scale": scale}


def on_cpu(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's state dict."""
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def fold(state: dict[str, torch.Tensor], projection: str, head: torch.Tensor) -> None:
    """Put a head without bias into the projection before it: both are linear, and lengths do not matter."""
    for part in (f"{projection}.weight", f"{projection}.bias"):
        if part in state:
            state[part] = head @ state[part]
