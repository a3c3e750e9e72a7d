"""What loggers of other makers have in common: the first process logs, and a resumed run keeps its record."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from distill.config import Recipe
from distill.errors import UserError
from distill.files import write_text
from distill.resolved import ResolvedRecipe
from distill.training.observing import Numbers, Observed, Observer

IDS = "log-ids.json"  # in a run folder: the names that loggers give the run, by logger


class Logger(Observer):
    """Passes on the numbers of every step.

    Attributes:
        name: in the recipe's ``log.to``, also that of the table of its options.
        package: that has to be installed.
    """

    rank = 90
    name: ClassVar[str]
    package: ClassVar[str]

    @classmethod
    def wanted(cls, recipe: Recipe) -> bool:
        return cls.name in recipe.log.to

    @classmethod
    def check(cls, resolved: ResolvedRecipe) -> None:
        from importlib.util import find_spec

        if find_spec(cls.package) is None:
            raise UserError(
                f"log.to names '{cls.name}', whose package is not installed.", f"Run: pip install {cls.package}."
            )
        if not isinstance(cls.options(resolved.recipe), dict):
            raise UserError(f"log.{cls.name} is no table.", f"Write log.{cls.name}.KEY = VALUE.")

    @classmethod
    def options(cls, recipe: Recipe) -> dict[str, Any]:
        """What the recipe says in ``[log.NAME]``."""
        return recipe.log.options.get(cls.name) or {}

    def __init__(self, training: Observed) -> None:
        self.training = training
        if training.group.first:
            self.start(self.options(training.recipe))

    @abstractmethod
    def start(self, options: dict[str, Any]) -> None:
        """Begin, or go on with, the record of the run."""

    @abstractmethod
    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of a step."""

    def after_step(self, step: int, numbers: Mapping[str, float]) -> Numbers:
        if self.training.group.first:
            self.write(step, numbers)
        return {}

    def id_of_run(self, make: Callable[[], str]) -> str:
        """The logger's name of this run: made when the run begins, and found again when it is resumed."""
        path, ids = self.training.run / IDS, dict[str, str]()
        with suppress(OSError, ValueError):
            ids = json.loads(path.read_text(encoding="utf-8"))
        if self.name not in ids:
            ids[self.name] = make()
            write_text(path, json.dumps(ids) + "\n")
        return ids[self.name]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of tables as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
