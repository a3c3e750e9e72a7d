"""Evaluations while training, as the recipe's [[evaluate]] tables ask for."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distill.config import Recipe
from distill.data.captions import Captions
from distill.errors import UserError
from distill.evals.evaluation import Metric
from distill.evals.session import Session
from distill.evals.store import Store
from distill.evals.subject import OpenOptions, Prepare, Subject
from distill.evals.subjects.students import Students
from distill.resolved import ResolvedRecipe
from distill.ship.build import build
from distill.ship.from_run import assemble, locked_tensors
from distill.training.checkpoint import Checkpoints, best_value
from distill.training.model import student_tensors
from distill.training.observing import Numbers, Observed, Observer
from launch import zero


class Planned(Subject):
    """The students of a recipe before there are any: which evaluations are possible does not depend on weights."""

    def __init__(self, resolved: ResolvedRecipe) -> None:
        recipe = resolved.recipe
        self.name, self.temperature, self.text = "the students", recipe.student.temperature, resolved.text
        self.captions = Captions(recipe.data.caption_keys, recipe.data.languages)
        self.data, self.train = data_of(recipe)
        self.first = resolved.first.name if resolved.first is not None else ""

    @classmethod
    def recognises(cls, name: str) -> bool:
        return False

    @classmethod
    def open(cls, name: str, options: OpenOptions) -> Planned:
        raise TypeError("it has no weights")

    def identity(self) -> str:
        raise TypeError("it has no weights")

    def preparations(self) -> Sequence[Prepare]:
        raise TypeError("it has no weights")

    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        raise TypeError("it has no weights")

    @property
    def has_text(self) -> bool:
        return self.text is not None

    def teacher(self) -> str:
        return self.first


def data_of(recipe: Recipe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the students of a recipe are measured on, and what classifiers learn from, unless others are named."""
    return recipe.data.eval, () if recipe.data.streamed else recipe.data.train


class Evaluations(Observer):
    """Measures copies of the students, on all processes together, and keeps the best checkpoint.

    Neither the weights nor any random state of training is touched, so a run learns the same with and without it.
    """

    rank = 10

    @classmethod
    def wanted(cls, recipe: Recipe) -> bool:
        return bool(recipe.evaluate)

    @classmethod
    def check(cls, resolved: ResolvedRecipe) -> None:
        session = Session(Planned(resolved), Store())
        for table, evaluation in zip(resolved.recipe.evaluate, resolved.evaluations, strict=True):
            try:
                evaluation.check(session.context(evaluation))
            except UserError as error:
                raise UserError(f"The evaluation '{table.task}' cannot be made: {error}") from error

    def __init__(self, training: Observed) -> None:
        self.training, resolved = training, training.networks.resolved
        self.tasks = list(zip(training.recipe.evaluate, resolved.evaluations, strict=True))
        self.locked = locked_tensors(resolved, training.run) if training.recipe.on_teacher else {}
        self.store = Store(None, training.group)
        self.session = Session(Planned(resolved), self.store, str(training.group.device))
        self.best = Checkpoints(training.run, 1, training.group, "best")
        self.best_value = best_value(training.run, training.start)

    def students(self) -> Students:
        """A copy of the students as they are now."""
        training, resolved = self.training, self.training.networks.resolved
        averages = zero.averages(training.engine) if training.recipe.train.ema else {}
        tensors = dict(student_tensors(training.engine.module, averages))
        recipe = {"recipe": training.recipe.model_dump(mode="json")}
        with torch.random.fork_rng(devices=[]):  # building draws random weights first
            shipped = assemble(resolved, tensors, training.tokenizer, recipe, self.locked)
            students = Students(build(shipped, str(training.group.device)), training.run.name)
        students.data, students.train = data_of(training.recipe)
        return students

    def after_step(self, step: int, numbers: Mapping[str, float]) -> Numbers:
        due = [
            (table, evaluation)
            for table, evaluation in self.tasks
            if step == self.training.total or (table.every and step % table.every == 0)
        ]
        if not due:
            return {}
        self.store.forget(self.session.subject)
        self.session.subject = self.students()
        found: Numbers = {}
        for table, evaluation in due:
            metrics = evaluation.measure(self.session.context(evaluation)).metrics
            found |= {f"{table.task}/{name}": metric.value for name, metric in metrics.items()}
            if table.best:
                self.keep_best(step, table.task, table.best, metrics)
        return found

    def keep_best(self, step: int, task: str, name: str, metrics: Mapping[str, Metric]) -> None:
        """Save a checkpoint if a metric is better than ever before.

        Raises:
            UserError: if there is no such metric.
        """
        if name not in metrics:
            raise UserError(
                f"The evaluation '{task}' has no metric '{name}'.",
                f"Set evaluate.best to one of: {', '.join(metrics)}.",
            )
        value = metrics[name].value * (1 if metrics[name].higher_is_better else -1)
        if math.isfinite(value) and value > self.best_value:
            self.best_value = value
            about: dict[str, Any] = {"metric": f"{task}/{name}", "value": metrics[name].value, "score": value}
            self.best.save(self.training.engine, step, about)

    def close(self) -> None:
        try:
            self.best.close()
        except UserError as error:
            print(f"The best checkpoint could not be written: {error}", file=sys.stderr)


OBSERVER = Evaluations
