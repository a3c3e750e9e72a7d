"""What looks at a training between its steps, such as evaluations and loggers: files in ``distill/observers/``."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from distill import plugins
from distill.config import Recipe
from distill.errors import UserError, did_you_mean
from distill.resolved import ResolvedRecipe
from distill.training.setup import Networks
from launch import group as processes
from students import Tokenizer

OBSERVERS = ("distill.observers", "OBSERVER", "distill.observers")  # where plugins.load finds them
Numbers = dict[str, float]


@dataclass(frozen=True)
class Observed:
    """A training, for those that observe it.

    Attributes:
        run: its folder.
        networks: of its recipe.
        tokenizer: the text student's; None without a text student.
        engine: DeepSpeed's, around the model.
        group: the processes.
        start, total: the step from which this process trains, and the number of steps of the run.
    """

    run: Path
    networks: Networks
    tokenizer: Tokenizer | None
    engine: Any
    group: processes.Group
    start: int
    total: int

    @property
    def recipe(self) -> Recipe:
        """Of the run."""
        return self.networks.resolved.recipe


class Observer(ABC):
    """Looks at a training after every step; every process has one. It must change nothing that training depends on.

    Attributes:
        rank: those with lower numbers are called first; later ones are given their numbers.
    """

    rank: ClassVar[int] = 50

    @classmethod
    @abstractmethod
    def wanted(cls, recipe: Recipe) -> bool:
        """Whether a recipe asks for it."""

    @classmethod  # noqa: B027
    def check(cls, resolved: ResolvedRecipe) -> None:
        """Raise ``UserError`` before any work is done, if a recipe asks for what is not possible."""

    @abstractmethod
    def __init__(self, training: Observed) -> None:
        """Prepare to observe a training; raise ``UserError`` if that is not possible."""

    @abstractmethod
    def after_step(self, step: int, numbers: Mapping[str, float]) -> Numbers:
        """Look at the training when ``step`` steps are done.

        Args:
            step: how many steps are done.
            numbers: of this step, by name: loss terms, learning rate and those of earlier observers.

        Returns:
            Further numbers of this step, by name.
        """

    def close(self) -> None:  # noqa: B027
        """Close files and connections, at the end of training."""


class Observers:
    """All observers that a recipe asks for.

    Attributes:
        seconds: for how long they have looked since this was read last.
    """

    def __init__(self, observers: list[Observer]) -> None:
        self.observers, self.seconds = observers, 0.0

    def after_step(self, step: int, numbers: Mapping[str, float]) -> Numbers:
        """The further numbers of a step, of all observers."""
        begun, found = time.perf_counter(), Numbers()
        for observer in self.observers:
            found |= observer.after_step(step, {**numbers, **found})
        self.seconds = time.perf_counter() - begun
        return found


@contextmanager
def observers_of(training: Observed) -> Iterator[Observers]:
    """The observers of a training, closed at its end."""
    with ExitStack() as opened:
        observers = []
        for kind in wanted(training.recipe):
            observers.append(kind(training))
            opened.callback(observers[-1].close)
        yield Observers(observers)


def wanted(recipe: Recipe) -> list[type[Observer]]:
    """The observers that a recipe asks for, in the order in which they are called."""
    names = plugins.found(*OBSERVERS)
    if unknown := [name for name in recipe.log.to if name not in names]:
        raise UserError(
            f"There is no logger '{unknown[0]}'.", did_you_mean(unknown[0], names, "Known: mlflow, wandb.")
        )
    kinds = [plugins.load("observer", name, *OBSERVERS, plugins.is_subclass(Observer)) for name in names]
    return [kind for kind in sorted(kinds, key=lambda kind: kind.rank) if kind.wanted(recipe)]


def check_observers(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if an observer that a recipe asks for cannot do its work."""
    for kind in wanted(resolved.recipe):
        kind.check(resolved)
