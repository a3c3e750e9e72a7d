"""The resolved recipe: a recipe with everything that its names stand for, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import losses
import students
import teachers
from distill.config import Recipe, TeacherTable


@dataclass(frozen=True)
class ResolvedTeacher:
    """A teacher of a recipe.

    Attributes:
        name: the card's, with a number where several teachers of the run share it.
        table: the recipe's ``[[teacher]]``.
        card: what it is.
        outputs: what it has to give.
        online: whether it runs while training. Text teachers always do: captions change with the epoch.
    """

    name: str
    table: TeacherTable
    card: teachers.Card
    outputs: tuple[str, ...]
    online: bool

    @property
    def image_size(self) -> int:
        """Side of its images, in pixels."""
        return self.table.image_size or self.card.image_size


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with everything that its names stand for.

    Attributes:
        recipe: as the user wrote it, with all options of the optimiser.
        objective: what is optimised.
        needs: what the objective asks for.
        facts: what the objective may know of each of the recipe's teachers.
        first: the card of the recipe's first teacher, which may be the image tower or give its first weights.
        teachers: those that training uses: all of them if the objective reads any output of a teacher, the first
            one if it is the image tower, or none.
        optimizer: a :class:`distill.training.optimizer.Optimizer` with its options.
        text: the class of the text tower; None without a text student.
        text_options: of that tower.
    """

    recipe: Recipe
    objective: losses.Objective
    needs: losses.Needs
    facts: tuple[losses.TeacherFacts, ...]
    first: teachers.Card | None
    teachers: tuple[ResolvedTeacher, ...]
    optimizer: Any
    text: type[students.TextTower] | None
    text_options: students.TextOptions | None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Of the students."""
        return ("image", "text") if self.text else ("image",)

    @property
    def cached(self) -> tuple[ResolvedTeacher, ...]:
        """The teachers whose outputs come from a cache."""
        return tuple(teacher for teacher in self.teachers if not teacher.online)
