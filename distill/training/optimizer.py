"""The base class of the optimisers in ``optimizers/NAME.py``, and the optimiser of a recipe with its groups."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from distill.config import Recipe
from distill.tables import TowerTable
from distill.training.averaging import keep_average
from distill.training.schedule import GroupSchedule
from distill.training.weight_decay import decayed_parameters, kernels


class Optimizer(BaseModel):
    """An optimiser: its fields are its own options, which stand in the recipe's ``[optim]``.

    A subclass is found by its name: as ``OPTIMIZER`` of the module ``distill/training/optimizers/NAME.py``, or by an
    entry point NAME of the group ``distill.optimizers`` of another installed package. Learning rate, warm-up, weight
    decay and gradient clipping are the recipe's, not the optimiser's.

    What ``step()`` remembers must be in ``state`` of the torch optimiser: by parameter, tensors and numbers. From
    ZeRO stage 1 on a "parameter" is the flat vector of a parameter group, or this process's part of it, so everything
    in the state must be a number, or a tensor of the vector's shape; whatever depends on the shape of a parameter or
    on what it is must be decided in :meth:`group_of`.

    Attributes:
        highest_stage: the highest ZeRO stage that the optimiser works with, 0 to 3.
        stage_reason: why not with a higher one, as a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    highest_stage: ClassVar[int] = 3
    stage_reason: ClassVar[str] = ""

    def group_of(self, name: str, parameter: nn.Parameter, kernel: bool) -> Mapping[str, Hashable]:
        """Settings of the parameter group to which a parameter belongs; parameters with equal settings share one.

        Args:
            name: dotted, in the model.
            parameter: with its shape; not to be changed.
            kernel: whether it is the kernel of a linear layer or a convolution, see
                :func:`distill.training.weight_decay.kernels`.

        Returns:
            Further keys of the group, besides "params", "lr" and "weight_decay"; none unless overridden.
        """
        return {}

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimiser.

        Args:
            groups: parameter groups with "params", "lr", "weight_decay" and what :meth:`group_of` says. The optimiser
                must keep them as they are, in this order: the loop sets the "lr" of each before every step.
        """
        raise NotImplementedError


def build_optimizer(
    model: nn.Module, recipe: Recipe, optimizer: Optimizer
) -> tuple[torch.optim.Optimizer, list[GroupSchedule]]:
    """The optimiser of a recipe, and the learning-rate schedule of each of its parameter groups.

    Parameters share a group if they have the same schedule, the same weight decay (that of the recipe or none, see
    :func:`distill.training.weight_decay.decayed_parameters`) and the same settings of the optimiser's own.

    Args:
        model: whose first level of modules are named as the towers in ``[student]``.
        recipe: whose learning rate, weight decay and towers' schedules hold.
        optimizer: the recipe's, with its options.

    Raises:
        TypeError: if the optimiser does not keep the groups that it is given.
    """
    towers = {name: table for name, table in vars(recipe.student).items() if isinstance(table, TowerTable)}
    schedules = {name: GroupSchedule(table.lr_scale, table.delay) for name, table in towers.items()}
    kernel_names, decayed = kernels(model), decayed_parameters(model)
    members: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            schedule = schedules.get(name.split(".")[0], GroupSchedule())
            decay = recipe.optim.weight_decay if name in decayed else 0.0
            settings = optimizer.group_of(name, parameter, name in kernel_names)
            members.setdefault((schedule, decay, *sorted(settings.items())), []).append(parameter)
    groups = [
        {**dict(settings), "params": parameters, "lr": recipe.optim.lr, "weight_decay": decay}
        for (_, decay, *settings), parameters in members.items()
    ]
    built = optimizer.build(groups)
    if [len(group["params"]) for group in built.param_groups] != [len(parameters) for parameters in members.values()]:
        raise TypeError(f"The optimiser '{recipe.optim.name}' has not kept the parameter groups that it was given.")
    if recipe.train.ema:
        keep_average(built, recipe.train.ema)
    return built, [schedule for schedule, *_ in members]
