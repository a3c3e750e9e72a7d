"""MLflow: ``log.to = ["mlflow"]``; ``[log.mlflow]`` may set ``tracking_uri`` and ``experiment``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distill.errors import UserError
from distill.ship.provenance import public_recipe
from distill.training.logger import Logger, flat

OPTIONS = ("tracking_uri", "experiment")


class MLflow(Logger):
    """Logs to a run of MLflow."""

    name = package = "mlflow"

    def start(self, options: dict[str, Any]) -> None:
        from mlflow import MlflowClient

        if unknown := sorted(options.keys() - {*OPTIONS}):
            raise UserError(f"MLflow's logger has no option '{unknown[0]}'.", f"Its options: {', '.join(OPTIONS)}.")
        self.client = MlflowClient(options.get("tracking_uri"))
        self.record = self.id_of_run(lambda: self.make(options.get("experiment", "distill")))

    def make(self, name: str) -> str:
        """Begin a run in an experiment, with the recipe's values as parameters."""
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self.client.create_experiment(name)
        record = str(self.client.create_run(number, run_name=self.training.run.name).info.run_id)
        for key, value in flat(public_recipe(self.training.recipe)).items():
            self.client.log_param(record, key, str(value)[:500])
        return record

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            if math.isfinite(value):
                self.client.log_metric(self.record, name, value, step=step)

    def close(self) -> None:
        if self.training.group.first:
            self.client.set_terminated(self.record)


OBSERVER = MLflow
