"""Weights & Biases: ``log.to = ["wandb"]``; the keys of ``[log.wandb]`` are arguments of ``wandb.init``."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from distill.ship.provenance import public_recipe
from distill.training.logger import Logger


class WeightsAndBiases(Logger):
    """Logs to a run of Weights & Biases. It ignores steps that a resumed training does again."""

    name = package = "wandb"

    def start(self, options: dict[str, Any]) -> None:
        import wandb

        training = self.training
        defaults = {"project": "distill", "name": training.run.name, "dir": str(training.run)}
        self.record = wandb.init(
            **defaults | options,
            id=self.id_of_run(lambda: uuid.uuid4().hex[:16]),
            resume="allow",
            config=public_recipe(training.recipe),
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.record.log(dict(numbers), step=step)

    def close(self) -> None:
        if self.training.group.first:
            self.record.finish()


OBSERVER = WeightsAndBiases
