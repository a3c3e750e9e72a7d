"""The learning-rate schedule; how the optimisers change weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill.config import Optim, Recipe
from distill.data_table import Data
from distill.lookup import OPTIMIZERS, find_optimizer
from distill.plugins import found
from distill.training.optimizer import build_optimizer
from distill.training.schedule import learning_rate


@settings(deadline=None)
@given(st.integers(1, 3000), st.one_of(st.floats(0, 1), st.integers(0, 4000)), st.floats(1e-6, 10))
def test_the_learning_rate_never_exceeds_its_peak(total: int, warmup: float, lr: float) -> None:
    optim = Optim(lr=lr, warmup=warmup)
    rates = [learning_rate(step, total, optim) for step in range(total)]
    assert min(rates) >= 0 and max(rates) <= lr * (1 + 1e-12)


@pytest.mark.parametrize("warmup", [0.1, 20])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(warmup: float) -> None:
    """A tenth of 200 steps and 20 steps are the same warm-up."""
    optim = Optim(lr=0.5, warmup=warmup)
    rates = [learning_rate(step, 200, optim) for step in range(200)]
    np.testing.assert_allclose(rates[:20], 0.5 * np.arange(1, 21) / 20)
    assert rates[20] == pytest.approx(0.5)  # the cosine starts where the warm-up ends
    np.testing.assert_allclose(rates[20:], 0.25 * (1 + np.cos(np.pi * np.arange(180) / 180)), atol=1e-12)
    assert 0 < rates[-1] < 1e-3 * 0.5
    assert learning_rate(200, 200, optim) == learning_rate(999, 200, optim) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_a_warm_up_the_first_step_is_at_the_peak(warmup: int) -> None:
    assert learning_rate(0, 50, Optim(lr=0.3, warmup=warmup)) == pytest.approx(0.3)
    assert learning_rate(0, 1, Optim(lr=0.3, warmup=warmup)) == pytest.approx(0.3)


def optimiser_of(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The optimiser of a recipe whose towers have the same learning-rate schedule."""
    recipe = Recipe(data=Data(train=("shards",)), optim=optim)
    return build_optimizer(model, recipe, find_optimizer(recipe))[0]


class Tiny(nn.Module):
    """Parameters of each kind: two matrices, a convolution, biases, a norm, a temperature, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(64, 48), nn.LayerNorm(48)
        self.small, self.kernel = nn.Linear(3, 2), nn.Conv2d(3, 4, 2)
        self.log_scale = nn.Parameter(torch.tensor([2.7]))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def loss(self) -> torch.Tensor:
        """A quadratic whose minimum is at 0.3 everywhere."""
        return sum(((p - 0.3).square().sum() for p in self.parameters() if p.requires_grad), torch.zeros(()))


@pytest.mark.parametrize("name", found(*OPTIMIZERS))
def test_weight_decay_is_for_kernels_only(name: str) -> None:
    model = Tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = optimiser_of(model, Optim(name=name, lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        # With zero gradients, weight decay is the only change.
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimiser.step()
    decayed = {"linear.weight", "small.weight", "kernel.weight"}
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if name in decayed else before[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", found(*OPTIMIZERS))
def test_an_optimiser_minimises_a_quadratic(name: str) -> None:
    model = Tiny()
    optim = Optim(name=name, lr=0.03, weight_decay=0)
    optimiser, start = optimiser_of(model, optim), model.loss().item()
    for step in range(300):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, 300, optim)
        optimiser.zero_grad()
        model.loss().backward()
        optimiser.step()
    assert model.loss().item() < 1e-3 * start
    assert model.log_scale.item() == pytest.approx(0.3, abs=0.05)
    optimised = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters() if p.requires_grad}, (
        "every trained parameter, and no frozen one"
    )


def test_adafactor_stores_a_row_and_a_column_for_a_large_matrix() -> None:
    """Its purpose: second moments of 48 + 64 numbers instead of 48 · 64, and the first moment in bfloat16."""
    model = Tiny()
    optimiser = optimiser_of(model, Optim(name="adafactor"))
    model.loss().backward()
    optimiser.step()
    state = optimiser.state[model.linear.weight]
    stored = [x for x in state.values() if torch.is_tensor(x) and x.numel() > 1]
    assert sum(x.numel() for x in stored if x.dtype == torch.float32) == 48 + 64
    assert [x.numel() for x in stored if x.dtype == torch.bfloat16] == [48 * 64]
