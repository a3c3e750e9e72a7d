"""Optimisers that tests install as another package; their state differs between kernels and other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from distill.training.optimizer import Optimizer

METADATA = "Metadata-Version: 2.1\nName: own-optimizers\nVersion: 1.0\n"
ENTRY_POINTS = """[distill.optimizers]
two_kinds = own_optimizers:TwoKinds
at_most_1 = own_optimizers:AtMost1
merging = own_optimizers:Merging
"""


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Within the context, this process and its children find these optimisers as entry points of a package."""
    about = folder / "own_optimizers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA)
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


class TwoKindsOptimizer(torch.optim.Optimizer):
    """State of a kernel: an average in bfloat16 and an int; of any other parameter: two averages and a tensor counter.

    It is elementwise, so that ZeRO may partition the parameters anywhere.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[..., Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (step_kernel if group["kernel"] else step_other)(parameter, self.state[parameter], group)


def step_kernel(p: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state.update(count=0, slow=torch.zeros_like(p, dtype=torch.bfloat16))
    state["count"] += 1
    state["slow"].mul_(group["momentum"]).add_(p.grad.to(torch.bfloat16))
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.sub_(state["slow"].float(), alpha=group["lr"] / state["count"])


def step_other(p: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state.update(step=torch.zeros(()), scale=1.0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
    state["step"] += 1
    state["scale"] *= 0.9
    state["mean"].lerp_(p.grad, 0.1)
    state["square"].lerp_(p.grad.square(), 0.1)
    p.sub_(state["mean"] / (state["square"].sqrt() + 1), alpha=group["lr"] * state["scale"] / state["step"].item())


class TwoKinds(Optimizer):
    momentum: float = 0.5

    def group_of(self, name: str, parameter: nn.Parameter, kernel: bool) -> Mapping[str, Any]:
        return {"kernel": kernel}

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return TwoKindsOptimizer(groups, self.momentum)


class AtMost1(TwoKinds):
    highest_stage: ClassVar[int] = 1
    stage_reason: ClassVar[str] = "It reads whole gradients."


class Merging(TwoKinds):
    """An invalid optimiser: it merges all parameter groups into one."""

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.1)
