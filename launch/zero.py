"""The same interface for every ZeRO stage: full weights, optimiser state by parameter name, steps that skip NaN.

DeepSpeed's own checkpoints depend on the number of processes and the stage. The state that is read here is full and
named by parameter, so it can be loaded by any number of processes at any stage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from launch.group import Group


def step(engine: Any) -> bool:
    """DeepSpeed's step, skipped if a gradient is not finite. Every process must call this.

    From stage 1 on DeepSpeed checks the gradients itself; at stage 0 it would apply them, so they are checked here.

    Returns:
        Whether the gradients were finite; also True if the engine only accumulates.
    """
    accumulating = not engine.is_gradient_accumulation_boundary()
    finite = True
    if not accumulating and not engine.zero_optimization():
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        # Gradients are averaged already, so the result is the same on every process.
        finite = bool(torch.nn.utils.get_total_norm(gradients).isfinite())
    if finite:
        engine.step()
    else:
        update, engine.optimizer.step = engine.optimizer.step, lambda: None
        try:
            engine.step()  # counts the step and clears the gradients
        finally:
            engine.optimizer.step = update
    return finite and (accumulating or bool(engine.was_step_applied()))


NUMBER = ":number"  # suffix of the names of values that are Python numbers in the optimiser's state, not tensors


AVERAGE = "ema"  # the key in the optimiser's state of a weight's moving average


def averages(engine: Any) -> dict[str, torch.Tensor]:
    """The moving averages of the trained parameters on the CPU, by name; empty if none are kept, or before the first
    step. Every process must call this."""
    state = optimizer_state(engine, (AVERAGE,))
    return {name.removesuffix(f"/{AVERAGE}"): value for name, value in state.items()}


def optimizer_state(engine: Any, keys: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """The optimiser's state on the CPU, ``PARAMETER/KEY`` → the full tensor. Every process must call this.

    Parameters may have different keys. A Python number becomes a 0-dim tensor, ``PARAMETER/KEY:number``.

    Args:
        engine: DeepSpeed's.
        keys: which ones; None for all.

    Raises:
        ValueError: if a value in the state cannot be saved, or from stage 1 on cannot be split by parameter.
    """
    inner, saved = _inner(engine), dict[str, torch.Tensor]()
    _link(engine)
    piece_of = {parameter: piece for piece, parameters in _pieces(engine) for parameter in parameters}
    for name, parameter in _trained(engine):
        piece = piece_of[parameter]
        for key, value in inner.state.get(piece, {}).items():
            if keys is not None and key not in keys:
                continue
            if isinstance(value, (bool, int, float)):
                dtype = torch.float64 if isinstance(value, float) else None
                saved[f"{name}/{key}{NUMBER}"] = torch.tensor(value, dtype=dtype)
            else:
                saved[f"{name}/{key}"] = _full(parameter, piece, key, value).detach().cpu().clone()
    return saved


def _full(parameter: nn.Parameter, piece: torch.Tensor, key: str, value: Any) -> torch.Tensor:
    """One parameter's part of the value that the state of its piece has for ``key``, gathered from all processes."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"The optimiser keeps '{key}' as a {type(value).__name__}: checkpoints hold tensors and numbers only."
        )
    if piece is parameter or not value.ndim:
        return value
    # DeepSpeed gathers in float32.
    exact = value.is_floating_point() and torch.promote_types(value.dtype, torch.float32) == torch.float32
    if value.shape != piece.shape or not exact:
        raise ValueError(
            f"The optimiser keeps '{key}' as {value.dtype} of shape {tuple(value.shape)} for {piece.numel()} weights: "
            "from ZeRO stage 1 on it must have one float of at most 32 bits per weight. Set zero.stage = 0."
        )
    full: torch.Tensor = safe_get_full_optimizer_state(parameter, key)
    return full.to(value.dtype)


def load_optimizer_state(engine: Any, state: dict[str, torch.Tensor]) -> None:
    """Load the result of :func:`optimizer_state` into the optimiser, at any stage and with any number of processes.

    Raises:
        KeyError: if a parameter in it does not exist or is not trained.
        ValueError: if, from stage 1 on, parameters of a group differ in values that the group shares there.
    """
    inner, by_name = _inner(engine), dict[str, dict[str, torch.Tensor]]()
    for name, value in state.items():
        parameter_name, key = name.rsplit("/", 1)
        by_name.setdefault(parameter_name, {})[key] = value
    trained = dict(_trained(engine))
    if unknown := sorted(by_name.keys() - trained.keys()):
        raise KeyError(f"The checkpoint has the optimiser's state of '{unknown[0]}', which is not trained here.")
    names = {parameter: name for name, parameter in trained.items()}
    for piece, parameters in _pieces(engine):
        entries = {names[p]: by_name.get(names[p], {}) for p in parameters}
        flat = parameters[0] is not piece
        if flat:
            _check_alike(entries, {names[p]: getattr(p, "ds_shape", p.shape) for p in parameters})
        if first := entries[names[parameters[0]]]:
            inner.state[piece] = {k.removesuffix(NUMBER): _initial_value(piece, k, v, flat) for k, v in first.items()}
    if engine.zero_optimization():
        _link(engine)
        for name, parameter in trained.items():
            for key, value in by_name.get(name, {}).items():
                if value.ndim:
                    _set_state(parameter, value, key)


def _initial_value(piece: torch.Tensor, key: str, value: torch.Tensor, flat: bool) -> Any:
    """The value in a piece's state for a saved value; for a flat piece, zeros that :func:`_set_state` overwrites."""
    if key.endswith(NUMBER):
        return value.item()
    if not value.ndim:
        return value.clone()  # on the CPU, as torch keeps scalars such as the step number
    return torch.zeros_like(piece, dtype=value.dtype) if flat else value.to(piece.device, copy=True)


def _check_alike(entries: dict[str, dict[str, torch.Tensor]], shapes: dict[str, torch.Size]) -> None:
    """Raise ``ValueError`` if parameters of one flat piece have states that cannot be combined into one."""
    reason = "from ZeRO stage 1 on, the parameters of a group share one state. Set zero.stage = 0."
    name, first = next(iter(entries.items()))
    for other, state in entries.items():
        if state.keys() != first.keys():
            raise ValueError(
                f"The optimiser's state has {', '.join(sorted(first)) or 'nothing'} for '{name}' and "
                f"{', '.join(sorted(state)) or 'nothing'} for '{other}': {reason}"
            )
        for key, value in state.items():
            first_value = first[key]
            if value.ndim and (value.shape != shapes[other] or not first_value.ndim):
                raise ValueError(
                    f"The optimiser's state '{key}' of '{other}' is of shape {tuple(value.shape)}, the parameter of "
                    f"shape {tuple(shapes[other])}: {reason}"
                )
            if value.dtype != first_value.dtype or (not value.ndim and not torch.equal(value, first_value)):
                raise ValueError(f"The optimiser's state '{key}' of '{name}' and of '{other}' differ: {reason}")


def _pieces(engine: Any) -> list[tuple[torch.Tensor, list[nn.Parameter]]]:
    """The tensors for which the optimiser has a state, each with the parameters in it.

    At stage 0 they are the parameters. From stage 1 on each is this process's part of the flat vector of a parameter
    group; at stage 3 DeepSpeed may split a group into several vectors.
    """
    stage, wrapper = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return [(parameter, [parameter]) for _, parameter in _trained(engine)]
    if stage == 3:
        return list(zip(wrapper.fp32_partitioned_groups_flat, wrapper.fp16_groups, strict=True))
    return list(zip(wrapper.single_partition_of_fp32_groups, wrapper.bit16_groups, strict=True))


def _link(engine: Any) -> None:
    """Make DeepSpeed map parameters to their parts of the optimiser's state, at stages 1 and 2.

    DeepSpeed does so after the step of the first parameter group, when the other groups have no state yet.
    """
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _set_state(parameter: Any, value: torch.Tensor, key: str) -> None:
    """Write a parameter's full state for a key into the part of it that this process has."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    value = value.to(parameter.device)
    if not hasattr(parameter, "ds_id"):
        safe_set_full_optimizer_state(parameter, value, key)
        return
    # DeepSpeed's function for full tensors fails at stage 3 if the number of processes does not divide the size.
    size = parameter.ds_tensor.numel()
    padded = nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    safe_set_local_optimizer_state(parameter, padded.split(size)[dist.get_rank()], key)


def _inner(engine: Any) -> torch.optim.Optimizer:
    """The torch optimiser, which DeepSpeed wraps from stage 1 on."""
    wrapped = engine.zero_optimization()
    inner: torch.optim.Optimizer = engine.optimizer.optimizer if wrapped else engine.optimizer
    return inner


def _trained(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)


@torch.no_grad()
def clamp_parameter(parameter: Any, maximum: float) -> None:
    """Clamp a parameter and the optimiser's fp32 copy of it, at any ZeRO stage. Every process must call this."""
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_local_fp32_param,
        safe_set_full_fp32_param,
        safe_set_local_fp32_param,
    )

    if hasattr(parameter, "ds_id"):
        safe_set_local_fp32_param(parameter, safe_get_local_fp32_param(parameter).clamp(max=maximum))
        parameter.ds_tensor.data.clamp_(max=maximum)
    else:
        copy = safe_get_full_fp32_param(parameter)  # None at stage 0, where there is no such copy
        if copy is not None:
            safe_set_full_fp32_param(parameter, copy.clamp(max=maximum))
    parameter.data.clamp_(max=maximum)  # empty at stage 3, unless it is so small that DeepSpeed does not partition it


def sharded(module: nn.Module, group: Group, stage: int) -> nn.Module:
    """At ZeRO stage 3, partition the weights of a frozen module among the processes and gather them layer by layer.

    The module gets a separate engine without an optimiser, so that its weights are in no optimiser and no checkpoint.

    Args:
        module: on this process's device, the same on every process.
        group: the processes.
        stage: the ZeRO stage; below 3 the module is returned unchanged.
    """
    if stage < 3 or group.world == 1:
        return module
    import deepspeed

    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    engine, *_ = deepspeed.initialize(model=module, config=settings)
    frozen: nn.Module = engine
    return frozen


@contextmanager
def full_parameters(module: nn.Module) -> Iterator[None]:
    """Gather the parameters of ``module`` that ZeRO stage 3 has partitioned, so that the block can read them."""
    import deepspeed

    sharded = [p for p in module.parameters() if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=None, enabled=bool(sharded)):
        yield
