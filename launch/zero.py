"""What ZeRO stages do differently, behind one face: whole weights, the optimiser's state by name, a guarded step.

DeepSpeed's own checkpoints are cut along processes and stages. What is read here is whole and named by parameter, so
it can be given back to any number of processes at any stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from launch.group import Group


def step(engine: Any) -> bool:
    """DeepSpeed's step, which changes nothing where a gradient is not finite. Every process must call this.

    Returns:
        Whether the gradients were finite; also true where the engine only accumulates. From stage 1 on DeepSpeed looks
        itself; at stage 0 it would spread the damage over all weights.
    """
    accumulating = not engine.is_gradient_accumulation_boundary()
    finite = True
    if not accumulating and not engine.zero_optimization():
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        # Gradients have been averaged already: every process finds the same.
        finite = bool(torch.nn.utils.get_total_norm(gradients).isfinite())
    if finite:
        engine.step()
    else:
        update, engine.optimizer.step = engine.optimizer.step, lambda: None
        try:
            engine.step()  # counts the step, and forgets the gradients
        finally:
            engine.optimizer.step = update
    return finite and (accumulating or bool(engine.was_step_applied()))


def optimizer_state(engine: Any) -> dict[str, torch.Tensor]:
    """The optimiser's state on the CPU, ``PARAMETER/KEY`` → the whole tensor. Every process must call this."""
    from deepspeed.utils import safe_get_full_optimizer_state

    inner, found, flat = _inner(engine), dict[str, torch.Tensor](), bool(engine.zero_optimization())
    _link(engine)
    piece: dict[str, torch.Tensor] = next(iter(inner.state.values()), {}) if flat else {}
    for name, parameter in _trained(engine):
        for key, value in (piece if flat else inner.state.get(parameter, {})).items():
            if flat and value.ndim:
                value = safe_get_full_optimizer_state(parameter, key)
            found[f"{name}/{key}"] = value.detach().cpu().clone()
    return found


def load_optimizer_state(engine: Any, state: dict[str, torch.Tensor]) -> None:
    """Give the optimiser what :func:`optimizer_state` found, at whatever stage and with however many processes.

    Raises:
        KeyError: if a parameter's state is missing or of another shape.
    """
    inner, by_name = _inner(engine), dict[str, dict[str, torch.Tensor]]()
    for name, value in state.items():
        of, key = name.rsplit("/", 1)
        by_name.setdefault(of, {})[key] = value
    trained = dict(_trained(engine))
    if not engine.zero_optimization():
        for name, entries in by_name.items():
            device = trained[name].device
            # As torch does: scalars (the step's number) stay on the CPU.
            inner.state[trained[name]] = {k: v.to(device) if v.ndim else v.clone() for k, v in entries.items()}
        return
    _make_flat_state(engine, next(iter(by_name.values()), {}))
    for name, parameter in trained.items():
        for key, value in by_name.get(name, {}).items():
            if value.ndim:
                _give(parameter, value, key)


def _make_flat_state(engine: Any, like: dict[str, torch.Tensor]) -> None:
    """The state that DeepSpeed's flat pieces have from their first step on: numbers as in ``like``, tensors zero."""
    inner, stage = _inner(engine), engine.zero_optimization_stage()
    wrapper = engine.optimizer
    pieces = wrapper.fp32_partitioned_groups_flat if stage == 3 else wrapper.single_partition_of_fp32_groups
    for piece in pieces:
        inner.state[piece] = {
            key: torch.zeros_like(piece) if value.ndim else value.clone() for key, value in like.items()
        }
    _link(engine)


def _link(engine: Any) -> None:
    """Let parameters know where their part of the optimiser's state lies, at stages 1 and 2.

    DeepSpeed does so itself, but after the step of the first group of parameters, when the others have no state yet.
    """
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _give(parameter: Any, value: torch.Tensor, key: str) -> None:
    """Write one parameter's state into the piece of it that this process has."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    value = value.to(parameter.device)
    if not hasattr(parameter, "ds_id"):
        safe_set_full_optimizer_state(parameter, value, key)
        return
    # DeepSpeed's own way to set a whole tensor at stage 3 fails where the processes do not divide it evenly.
    size = parameter.ds_tensor.numel()
    padded = nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    safe_set_local_optimizer_state(parameter, padded.split(size)[dist.get_rank()], key)


def _inner(engine: Any) -> torch.optim.Optimizer:
    """The optimiser that DeepSpeed was given, which it wraps from stage 1 on."""
    inner: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return inner


def _trained(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)


@torch.no_grad()
def keep_at_most(parameter: Any, most: float) -> None:
    """Clamp a parameter, and the optimiser's own copy of it, at any ZeRO stage. Every process must call this."""
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_local_fp32_param,
        safe_set_full_fp32_param,
        safe_set_local_fp32_param,
    )

    if hasattr(parameter, "ds_id"):
        safe_set_local_fp32_param(parameter, safe_get_local_fp32_param(parameter).clamp(max=most))
        parameter.ds_tensor.data.clamp_(max=most)
    else:
        copy = safe_get_full_fp32_param(parameter)  # None at stage 0, which has no other copy
        if copy is not None:
            safe_set_full_fp32_param(parameter, copy.clamp(max=most))
    parameter.data.clamp_(max=most)  # empty at stage 3, unless DeepSpeed keeps it whole for being small


def sharded(module: nn.Module, group: Group, stage: int) -> nn.Module:
    """A frozen module whose weights are, at ZeRO stage 3, split among the processes and gathered layer by layer.

    It has an engine of its own without an optimiser, so it is in nobody's optimiser and in no checkpoint.

    Args:
        module: on this process's device, the same on every process.
        group: the processes.
        stage: of ZeRO; below 3 the module is returned as it is.
    """
    if stage < 3 or group.world == 1:
        return module
    import deepspeed

    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    engine, *_ = deepspeed.initialize(model=module, config=settings)
    frozen: nn.Module = engine
    return frozen


@contextmanager
def whole_parameters(module: nn.Module) -> Iterator[None]:
    """Inside, ZeRO-3's sharded parameters of ``module`` are whole on every process, to be read."""
    import deepspeed

    sharded = [p for p in module.parameters() if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=None, enabled=bool(sharded)):
        yield
