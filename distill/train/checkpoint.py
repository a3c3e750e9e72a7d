"""Checkpoints of a run: DeepSpeed's files to resume from, and the students as safetensors to use.

``checkpoints/step-N/`` appears under that name only when it is complete, and ``checkpoints/latest`` names the
newest one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.errors import UserError
from distill.files import write_text, write_whole
from distill.train.model import Model
from distill.train.spaces import SharedSpace
from launch import group as processes

STUDENTS = "students.safetensors"
REMEDY = "Name an older one in checkpoints/latest."


def save(engine: Any, run: Path, step: int, keep: int, group: processes.Group) -> None:
    """Write the checkpoint of a step and forget the oldest ones. Every process must call this.

    Args:
        engine: DeepSpeed's engine around a :class:`distill.train.model.Model`.
        run: the run folder.
        step: optimiser steps done.
        keep: how many checkpoints stay.
    """
    folder = run / "checkpoints"
    tag, unfinished = f"step-{step:08d}", f".unfinished-{step:08d}"
    if group.first:
        shutil.rmtree(folder / unfinished, ignore_errors=True)
    processes.barrier(group)
    engine.save_checkpoint(str(folder), tag=unfinished, client_state={"step": step}, save_latest=False)
    tensors = student_tensors(engine.module)
    processes.barrier(group)
    if group.first:
        from safetensors.torch import save_file

        write_whole(folder / unfinished / STUDENTS, lambda to: save_file(tensors, to))
        shutil.rmtree(folder / tag, ignore_errors=True)
        (folder / unfinished).rename(folder / tag)
        write_text(folder / "latest", tag)
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
    processes.barrier(group)


def student_tensors(model: Model) -> dict[str, torch.Tensor]:
    """What ships of a model, on the CPU: ``image.*``, ``text.*`` and ``scale`` (1/τ). No teacher, no heads.

    Of towers that were trained without heads also ``adapter.*`` of the first teacher, for evaluations that combine it
    with the student; that does not ship.
    """
    tensors: dict[str, torch.Tensor] = {}
    with processes.whole_parameters(model):
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


def newest(run: Path) -> Path | None:
    """The folder of a run's newest checkpoint, if it has one.

    Raises:
        UserError: if ``latest`` names one that is not there: starting anew would throw the run away.
    """
    latest = run / "checkpoints" / "latest"
    if not latest.is_file():
        return None
    folder = run / "checkpoints" / latest.read_text(encoding="utf-8").strip()
    if not (folder / STUDENTS).is_file():
        raise UserError(f"{latest} names the checkpoint {folder.name}, which is not there.", "Name one that is.")
    return folder


def restore(engine: Any, run: Path) -> int:
    """Load the newest checkpoint into an engine.

    Returns:
        The number of steps it has done; 0 when there is no checkpoint yet.

    Raises:
        UserError: if DeepSpeed cannot read it.
    """
    folder = newest(run)
    if folder is None:
        return 0
    try:
        loaded, state = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    except Exception as error:  # DeepSpeed, pickle and zipfile raise whatever a damaged file makes them
        raise UserError(f"The checkpoint {folder} cannot be loaded: {error}.", REMEDY) from error
    if loaded is None:
        raise UserError(f"The checkpoint {folder} cannot be loaded.", REMEDY)
    return int(state["step"])
