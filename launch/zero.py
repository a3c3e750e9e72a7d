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


NUMBER = ":number"  # ends the name of what the optimiser has as a Python number instead of a tensor


def optimizer_state(engine: Any) -> dict[str, torch.Tensor]:
    """The optimiser's state on the CPU, ``PARAMETER/KEY`` → the whole tensor. Every process must call this.

    Parameters may have different keys. A Python number becomes a tensor of no dimensions, ``PARAMETER/KEY:number``.

    Raises:
        ValueError: if there is something in the state that cannot be saved, or from stage 1 on assigned to parameters.
    """
    inner, found = _inner(engine), dict[str, torch.Tensor]()
    _link(engine)
    piece_of = {parameter: piece for piece, parameters in _pieces(engine) for parameter in parameters}
    for name, parameter in _trained(engine):
        piece = piece_of[parameter]
        for key, value in inner.state.get(piece, {}).items():
            if isinstance(value, (bool, int, float)):
                kind = torch.float64 if isinstance(value, float) else None
                found[f"{name}/{key}{NUMBER}"] = torch.tensor(value, dtype=kind)
            else:
                found[f"{name}/{key}"] = _whole(parameter, piece, key, value).detach().cpu().clone()
    return found


def _whole(parameter: nn.Parameter, piece: torch.Tensor, key: str, value: Any) -> torch.Tensor:
    """One parameter's part of what the state of its piece has under ``key``, gathered from all processes."""
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
            "from ZeRO stage 1 on it must be one number of at most 32 bits for each. Set zero.stage = 0."
        )
    whole: torch.Tensor = safe_get_full_optimizer_state(parameter, key)
    return whole.to(value.dtype)


def load_optimizer_state(engine: Any, state: dict[str, torch.Tensor]) -> None:
    """Give the optimiser what :func:`optimizer_state` found, at whatever stage and with however many processes.

    Raises:
        KeyError: if it is the state of a parameter that is not there, or not trained.
        ValueError: if, from stage 1 on, the parameters of a group differ in what is one for the whole group there.
    """
    inner, by_name = _inner(engine), dict[str, dict[str, torch.Tensor]]()
    for name, value in state.items():
        of, key = name.rsplit("/", 1)
        by_name.setdefault(of, {})[key] = value
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
            inner.state[piece] = {k.removesuffix(NUMBER): _start(piece, k, v, flat) for k, v in first.items()}
    if engine.zero_optimization():
        _link(engine)
        for name, parameter in trained.items():
            for key, value in by_name.get(name, {}).items():
                if value.ndim:
                    _give(parameter, value, key)


def _start(piece: torch.Tensor, key: str, value: torch.Tensor, flat: bool) -> Any:
    """What the state of a piece has for a saved value; if it is flat, zeros, into which parameters are written."""
    if key.endswith(NUMBER):
        return value.item()
    if not value.ndim:
        return value.clone()  # as torch does: scalars (the step's number) stay on the CPU
    return torch.zeros_like(piece, dtype=value.dtype) if flat else value.to(piece.device, copy=True)


def _check_alike(entries: dict[str, dict[str, torch.Tensor]], shapes: dict[str, torch.Size]) -> None:
    """Refuse states of parameters that cannot be the state of the one flat piece that these parameters are part of."""
    what = "from ZeRO stage 1 on, the parameters of a group share one state. Set zero.stage = 0."
    name, first = next(iter(entries.items()))
    for other, own in entries.items():
        if own.keys() != first.keys():
            raise ValueError(
                f"The optimiser's state has {', '.join(sorted(first)) or 'nothing'} for '{name}' and "
                f"{', '.join(sorted(own)) or 'nothing'} for '{other}': {what}"
            )
        for key, value in own.items():
            like = first[key]
            if value.ndim and (value.shape != shapes[other] or not like.ndim):
                raise ValueError(
                    f"The optimiser's state '{key}' of '{other}' is of shape {tuple(value.shape)}, the parameter of "
                    f"shape {tuple(shapes[other])}: {what}"
                )
            if value.dtype != like.dtype or (not value.ndim and not torch.equal(value, like)):
                raise ValueError(f"The optimiser's state '{key}' of '{name}' and of '{other}' differ: {what}")


def _pieces(engine: Any) -> list[tuple[torch.Tensor, list[nn.Parameter]]]:
    """What the optimiser has a state for, with the parameters that it is part of.

    At stage 0 each parameter itself. From stage 1 on this process's part of a vector of all parameters of a group;
    at stage 3 DeepSpeed may cut a group into several.
    """
    stage, wrapper = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return [(parameter, [parameter]) for _, parameter in _trained(engine)]
    if stage == 3:
        return list(zip(wrapper.fp32_partitioned_groups_flat, wrapper.fp16_groups, strict=True))
    return list(zip(wrapper.single_partition_of_fp32_groups, wrapper.bit16_groups, strict=True))


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
        copy = safe_get_full_fp32_param(parameter)  # None at stage 0, which has no other copy
        if copy is not None:
            safe_set_full_fp32_param(parameter, copy.clamp(max=maximum))
    parameter.data.clamp_(max=maximum)  # empty at stage 3, unless DeepSpeed keeps it whole for being small


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
