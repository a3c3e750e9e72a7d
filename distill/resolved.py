"""The resolved recipe: a recipe with the objects that it names, in one frozen object."""

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
        name: the name of the card, followed by a number if teachers before it have the same card.
        table: the recipe's ``[[teacher]]`` table.
        card: the teacher's card.
        outputs: the names of the outputs that it must compute.
        online: whether it runs during training. Text teachers always do, because captions change with the epoch.
    """

    name: str
    table: TeacherTable
    card: teachers.Card
    outputs: tuple[str, ...]
    online: bool

    @property
    def image_size(self) -> int:
        """The side of its input images, in pixels."""
        return self.table.image_size or self.card.image_size


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with the objects that it names.

    Attributes:
        recipe: the recipe, with all options of the optimiser.
        objective: the objective with its options.
        needs: the needs of the objective.
        facts: the facts about each teacher in the recipe that the objective may use.
        first: the card of the recipe's first teacher, which may be the image tower or provide its initial weights.
        teachers: the teachers that training uses: all of them if the objective reads any output of a teacher, only
            the first one if it is the image tower, or none.
        optimizer: a :class:`distill.training.optimizer.Optimizer` with its options.
        text: the class of the text tower; None without a text student.
        text_options: the options of the text tower; None without a text student.
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
        """The modalities of the students."""
        return ("image", "text") if self.text else ("image",)

    @property
    def cached(self) -> tuple[ResolvedTeacher, ...]:
        """The teachers whose outputs come from a cache."""
        return tuple(teacher for teacher in self.teachers if not teacher.online)
