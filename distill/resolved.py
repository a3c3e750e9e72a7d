"""The resolved recipe: a recipe and what its names stand for, in one frozen object; and whether that fits together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import losses
import students
from distill.config import Recipe, TeacherTable
from distill.errors import UserError
from distill.initial import Source, arch_of
from distill.rules import Rules
from distill.tables import ImageTowerTable
from teachers import Card


@dataclass(frozen=True)
class ResolvedTeacher:
    """A teacher of a recipe; of a pair of which both towers teach, one of them.

    Attributes:
        name: the name of the card, followed by a number if teachers before it have the same card.
        number: of its ``[[teacher]]`` table in the recipe, from 0.
        table: the recipe's ``[[teacher]]`` table, which both towers of a pair share.
        card: the teacher's card.
        facts: the facts about it for the objective.
        outputs: the names of the outputs that it must compute.
        online: whether it runs during training.
    """

    name: str
    number: int
    table: TeacherTable
    card: Card
    facts: losses.TeacherFacts
    outputs: tuple[str, ...]
    online: bool

    @property
    def image_size(self) -> int:
        """The side of its input images, in pixels; 0 for a text teacher."""
        return self.card.image_size and (self.table.image_size or self.card.image_size)

    @property
    def reads_samples(self) -> bool:
        """Whether training needs the samples for it: to embed them, or to draw the captions that are in its cache."""
        return self.online or self.card.modality == "text"

    @property
    def cache_folder(self) -> Path | None:
        """The folder that the recipe names for its cache; None for a cache beside the shards, or none at all."""
        folder = None if self.table.cache in ("auto", "none") else Path(self.table.cache)
        return folder / self.card.modality if folder is not None and self.table.tower == "both" else folder


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with the objects that it names.

    Attributes:
        recipe: the recipe, with all options of the optimiser.
        objective: the objective with its options.
        needs: the needs of the objective.
        named: all teachers of the recipe.
        source: where the initial weights of the image student come from; None if they are random.
        teachers: the teachers that training uses: all of them if the objective reads any output of a teacher, only
            the first one if it is the image tower, or none.
        optimizer: a :class:`distill.training.optimizer.Optimizer` with its options.
        evaluations: a :class:`distill.evals.evaluation.Evaluation` with its options for each [[evaluate]].
        text: the class of the text tower; None without a text student.
        text_options: the options of the text tower; None without a text student.
        rules: by which samples are ordered and views drawn.
    """

    recipe: Recipe
    objective: losses.Objective
    needs: losses.Needs
    named: tuple[ResolvedTeacher, ...]
    source: Source | None
    teachers: tuple[ResolvedTeacher, ...]
    optimizer: Any
    evaluations: tuple[Any, ...]
    text: type[students.TextTower] | None
    text_options: students.TextOptions | None
    rules: Rules

    @property
    def facts(self) -> tuple[losses.TeacherFacts, ...]:
        """The facts about each teacher in the recipe, which the objective may use."""
        return tuple(teacher.facts for teacher in self.named)

    @property
    def first(self) -> Card | None:
        """The card of the recipe's first teacher, which may be the image tower."""
        return self.named[0].card if self.named else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the students."""
        return ("image", "text") if self.text else ("image",)

    @property
    def cached(self) -> tuple[ResolvedTeacher, ...]:
        """The teachers whose outputs come from a cache."""
        return tuple(teacher for teacher in self.teachers if not teacher.online)


def check_compatibility(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` that names the first parts that do not fit together."""
    recipe = resolved.recipe
    check_objective(resolved)
    check_teachers(resolved)
    check_caches(resolved)
    if recipe.on_teacher or recipe.student.image.init or recipe.student.alpha:
        check_image_tower(resolved)


def check_objective(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if objective, teachers and students do not fit together."""
    recipe, needs, facts = resolved.recipe, resolved.needs, resolved.facts
    try:
        resolved.objective.check(facts, resolved.modalities)
    except ValueError as error:
        raise UserError(f"The objective '{recipe.objective.name}' {error}") from error
    if recipe.student.alpha and (not needs.combinable or facts[0].modality != "image"):
        raise UserError(
            "student.alpha combines the embeddings of an image teacher and of the student, which share a space only "
            "where no head stands between them.",
            'Train with objective.name = "three_towers" and objective.heads = "none", or leave out alpha.',
        )


def check_teachers(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if a text teacher has an image size."""
    for teacher in resolved.named:
        if teacher.card.modality == "text" and teacher.table.image_size and teacher.table.tower != "both":
            raise UserError(
                f"The teacher '{teacher.card.name}' embeds captions and has no image size.",
                f"Leave out teacher.{teacher.number}.image_size.",
            )


def check_caches(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if the teacher caches do not fit the data or each other."""
    cached = resolved.cached
    if resolved.recipe.data.streamed and cached:
        raise UserError(
            f"The teacher '{cached[0].card.name}' has a cache, and data.train are streams, whose samples "
            "have no rows in it.",
            f'Set teacher.{cached[0].number}.cache = "none", or copy the shards to a mounted folder.',
        )
    folders = [folder.resolve() for teacher in cached if (folder := teacher.cache_folder) is not None]
    if duplicates := [folder for k, folder in enumerate(folders) if folder in folders[:k]]:
        raise UserError(
            f"Two teachers name the same cache folder, {duplicates[0]}.",
            'Name a different folder for each as teacher.N.cache, or set teacher.N.cache = "auto".',
        )
    if len({one.table.views for one in resolved.named if not one.online and one.card.modality == "image"}) > 1:
        raise UserError(
            "All teachers must cache the same number of views, because the student is trained on the same views.",
            "Set the same teacher.N.views for each.",
        )


def check_image_tower(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if an image tower that is, or is initialised from, the first teacher does not fit it."""
    recipe, facts, card = resolved.recipe, resolved.facts, resolved.first
    image, needs = recipe.student.image, resolved.needs
    if recipe.on_teacher and facts[0].modality != "image":
        raise UserError(
            f"The first teacher, '{facts[0].name}', embeds texts and cannot be the image tower.",
            "Name the image teacher first.",
        )
    # It compares other outputs than the embedding, which is all that a locked teacher gives as a tower.
    trains_image = needs.teachers and "embedding" not in needs.teachers
    if recipe.on_teacher and (trains_image or needs.folded):
        what = "heads that ship with the image tower" if needs.folded else "an image student"
        raise UserError(
            f"The objective '{recipe.objective.name}' trains {what}, and the image tower is the locked teacher.",
            "Give student.image an architecture of its own.",
        )
    if recipe.on_teacher and not image.mlp_layers and resolved.text is None:
        raise UserError(
            "The image tower is the locked teacher and there is no text student: nothing that ships would be trained.",
            "Give student.image an architecture of its own, or train a text student.",
        )
    if recipe.on_teacher and not image.mlp_layers and facts[0].width != recipe.student.width:
        raise UserError(
            f"The teacher '{facts[0].name}' is the image tower and has embeddings of width {facts[0].width}, but "
            f"student.width is {recipe.student.width}.",
            f"Set student.width = {facts[0].width}, or student.image.layers = 1 for a learned projection.",
        )
    if resolved.source is not None:
        check_same_network(image, resolved.source)
    if card is None:
        return
    if (recipe.on_teacher or recipe.student.alpha) and not card.is_timm:
        raise UserError(
            f"The network of '{card.name}' is none of timm's: it can be a teacher, but not an exported image tower.",
            "Name another first teacher, or another student.image.",
        )
    side = resolved.named[0].image_size
    if image.beside is not None and recipe.data.image_size != side:
        raise UserError(
            f"The network beside the teacher reads the same images of {side} pixels; data.image_size is "
            f"{recipe.data.image_size}.",
            f"Set data.image_size = {side}.",
        )


def check_same_network(image: ImageTowerTable, source: Source) -> None:
    """Raise ``UserError`` if an image student starts from whole weights of another architecture."""
    if source.card is not None and image.select == "none" and arch_of(source.card) != image.arch:
        raise UserError(
            f"student.image.init starts from '{source.name}', which is a '{source.card.arch}', not a '{image.arch}'.",
            f'Set student.image.arch = "{arch_of(source.card)}"; or take a part of it for a smaller one of its family '
            'with student.image.select = "first".',
        )
