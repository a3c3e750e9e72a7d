"""The averaged students of a run with ``train.ema``: what is averaged, and where the averages take the weights' place.

The weights are trained as without it. What is evaluated, exported and started from are their exponential moving
averages (iterate averaging: Polyak and Juditsky, 1992; in this form for example in Inception, arXiv 1512.00567).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distill.config import Recipe
from distill.errors import UserError
from distill.training.model import Model
from launch import weight_average

BUFFERS = "buffer_averages"  # the module of a model that holds the averages of its buffers


def check_average(recipe: Recipe, model: Model) -> None:
    """Raise ``UserError`` if a recipe asks for averages of students in which nothing is trained.

    A locked weight is its own average. Only where all of them are would ``train.ema`` have no effect.
    """
    if not recipe.train.ema or model.between:  # heads between the students are trained and exported within them
        return
    scales = {"image": recipe.student.image.lr_scale, "text": recipe.student.text.lr_scale}
    for modality, tower in model.towers.items():
        if scales[modality] and any(parameter.requires_grad for parameter in tower.parameters()):
            return
    keys = " or ".join(f"student.{modality}.locked and lr_scale" for modality in model.towers)
    raise UserError(
        f"train.ema = {recipe.train.ema:g} averages the weights of the students, of which none is trained here: all "
        "are locked, or have the learning rate 0.",
        f"Set train.ema = 0, or let one learn: {keys}.",
    )


def keep_buffer_averages(model: Model) -> None:
    """Add to a model the averages of its students' saved buffers of floats: the running statistics of batch norms.

    They are statistics of activations under the weights of the last steps, and averaged weights lie behind these; so
    they are averaged with the same decay, as timm's ``ModelEmaV3`` does. Counters such as the number of batches are
    taken as they are. The averages are buffers, too, but in no state dict: each process has its own, checkpoints hold
    them, and a step that is skipped leaves them as they were.
    """
    saved, averages = model.state_dict().keys(), nn.Module()
    for name, buffer in model.named_buffers():
        if name in saved and name.split(".")[0] in model.modalities and buffer.is_floating_point():
            # The name of a buffer must not contain a dot.
            averages.register_buffer(name.replace(".", "/"), buffer.detach().clone(), persistent=False)
    model.add_module(BUFFERS, averages)


def buffer_averages(model: nn.Module) -> dict[str, torch.Tensor]:
    """The averages of buffers by their names in the model; empty if none are kept."""
    averages = dict(model.named_children()).get(BUFFERS)
    return {} if averages is None else {name.replace("/", "."): value for name, value in averages.named_buffers()}


@torch.no_grad()
def update_averages(engine: Any, decay: float) -> None:
    """Average the weights and buffers once more, after a step that was applied; see :mod:`launch.weight_average`."""
    share = weight_average.update(engine, decay)
    for name, average in buffer_averages(engine.module).items():
        average.lerp_(engine.module.get_buffer(name), share)


def current_averages(engine: Any) -> dict[str, torch.Tensor]:
    """The averages of parameters and buffers on the CPU, by their names; empty without ``train.ema``.

    Every process must call this.
    """
    return weight_average.averages(engine) | _copies(engine.module)


def saved_averages(model: nn.Module, optimizer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Like :func:`current_averages`, from the result of :func:`launch.zero.optimizer_state`."""
    return weight_average.averages_in(optimizer) | _copies(model)


def _copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in buffer_averages(model).items()}
