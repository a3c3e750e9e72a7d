"""What a recipe's names stand for, looked up without loading anything: cards of teachers, objective, optimiser."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import losses
import teachers
from distill import plugins
from distill.config import Optim, Recipe, TeacherTable
from distill.errors import UserError, from_leaves
from distill.validation import explain
from losses.objectives import Facts

if TYPE_CHECKING:
    from losses import Objective

OPTIMIZERS = ("distill.train.optimizers", "OPTIMIZER", "distill.optimizers")  # where plugins.load finds them


def card_of(table: TeacherTable) -> teachers.Card:
    """The card of a recipe's teacher.

    Raises:
        UserError: if there is no such teacher.
    """
    return _card(table.name, table.weights, table.sha256)


@functools.cache
def _card(name: str, weights: str, sha256: str) -> teachers.Card:
    with from_leaves():
        card = teachers.card(name)
        return teachers.with_weights(card, weights, sha256) if weights else card


def online(table: TeacherTable) -> bool:
    """Whether a teacher runs while training. Text teachers always do: captions change with the epoch."""
    return table.cache == "none" or card_of(table).modality == "text"


def teachers_of(recipe: Recipe) -> tuple[TeacherTable, ...]:
    """The teachers that training listens to: those of the objective, or the one that is the image tower, or none."""
    if objective_of(recipe).needs.space != "none":
        return recipe.teacher
    return recipe.teacher[:1] if recipe.on_teacher else ()


def names_of(recipe: Recipe) -> list[str]:
    """A name for each of :func:`teachers_of`: its card's, with a number where several share it."""
    cards = [card_of(table).name for table in teachers_of(recipe)]
    return [f"{name} ({cards[:k].count(name) + 1})" if name in cards[:k] else name for k, name in enumerate(cards)]


def facts_of(recipe: Recipe) -> tuple[Facts, ...]:
    """What an objective may know of a recipe's teachers."""
    cards = [(table, card_of(table)) for table in recipe.teacher]
    return tuple(Facts(c.name, c.modality, c.width, c.classes, online(table)) for table, c in cards)


def objective_of(recipe: Recipe) -> Objective:
    """The objective of a recipe.

    Raises:
        UserError: if there is none of that name, or an option of it does not hold.
    """
    name, options = recipe.objective.name, recipe.objective.options
    try:
        return losses.objective(name, **options)
    except LookupError as error:
        raise UserError(str(error.args[0])) from error
    except ValidationError as error:
        kind = type(losses.objective(name))
        raise UserError(*explain(error, kind, "objective")) from error


def optimizer_of(recipe: Recipe) -> Any:
    """The optimiser of a recipe with its options, a ``distill.train.optimizer.Optimizer``.

    Raises:
        UserError: if there is none of that name, or an option of it does not hold.
    """
    kind = optimizer_class(recipe.optim.name)
    try:
        return kind.model_validate(recipe.optim.options)
    except ValidationError as error:
        raise UserError(*explain(error, kind, "optim", Optim.model_fields)) from error


def optimizer_class(name: str) -> Any:
    """The class of an optimiser; raises like :func:`distill.plugins.load`."""
    return plugins.load("optimizer", name, *OPTIMIZERS)


def check_optimizer(recipe: Recipe) -> Recipe:
    """Find out whether the optimiser exists, takes its options and works at the recipe's ZeRO stage.

    Returns:
        The recipe with all options of the optimiser, those that it leaves out too: a run must go on with the values
        that it was started with.

    Raises:
        UserError: naming what does not hold.
    """
    optimizer, name, stage = optimizer_of(recipe), recipe.optim.name, recipe.zero.stage
    highest = optimizer.highest_stage
    if stage > highest:
        known = [other for other in plugins.found(*OPTIMIZERS) if optimizer_class(other).highest_stage >= stage]
        others = " or ".join(f'"{other}"' for other in known) or "another one"
        needs = "= 0" if highest == 0 else f"at most {highest}"
        raise UserError(
            f'The recipe does not check out: optim.name = "{name}" needs zero.stage {needs}; '
            f"use {others} from stage {highest + 1} on.",
            optimizer.stage_reason,
        )
    options = optimizer.model_dump()
    return recipe.model_copy(update={"optim": Optim.model_validate(recipe.optim.model_dump() | options)})


def check_objective(recipe: Recipe) -> None:
    """Find out whether objective, teachers and towers make sense together.

    Raises:
        UserError: naming what does not.
    """
    objective, facts = objective_of(recipe), facts_of(recipe)
    try:
        objective.check(facts)
    except ValueError as error:
        raise UserError(f"The objective '{recipe.objective.name}' {error}") from error
    for number, (table, fact) in enumerate(zip(recipe.teacher, facts, strict=True)):
        if fact.modality == "text" and table.image_size:
            raise UserError(
                f"The teacher '{fact.name}' embeds captions and has no image size.",
                f"Leave out teacher.{number}.image_size.",
            )
        if fact.modality == "text" and table.cache not in ("auto", "none"):
            raise UserError(
                f"The teacher '{fact.name}' embeds captions, which change with the epoch: it has no cache.",
                f'Leave out teacher.{number}.cache, or set it to "none".',
            )
    cached = [number for number, table in enumerate(teachers_of(recipe)) if not online(table)]
    if recipe.data.streamed and cached:
        raise UserError(
            f"The teacher '{facts[cached[0]].name}' has a cache, and data.train are streams, whose samples have no "
            "rows in it.",
            f'Set teacher.{cached[0]}.cache = "none", or copy the shards to a mounted folder.',
        )
    folders = [Path(recipe.teacher[k].cache).resolve() for k in cached if recipe.teacher[k].cache != "auto"]
    if twice := [folder for k, folder in enumerate(folders) if folder in folders[:k]]:
        raise UserError(
            f"Two teachers name the same cache folder, {twice[0]}.",
            'Name a folder of its own for each as teacher.N.cache, or set teacher.N.cache = "auto".',
        )
    if len({table.views for table in recipe.teacher if not online(table)}) > 1:
        raise UserError(
            "All teachers must cache the same number of views: the student sees the same ones.",
            "Set the same teacher.N.views for each.",
        )
    needs = objective.needs
    if recipe.student.alpha and (needs.space != "shared" or needs.heads != "none" or facts[0].modality != "image"):
        raise UserError(
            "student.alpha combines the embeddings of an image teacher and the student, which share a space only "
            "where no head stands between them.",
            'Train with objective.name = "three_towers" and objective.heads = "none", or leave out alpha.',
        )
    if recipe.on_teacher or recipe.student.image.init or recipe.student.alpha:
        check_image_tower(recipe, facts, objective)


def check_image_tower(recipe: Recipe, facts: tuple[Facts, ...], objective: Objective) -> None:
    """The rules of an image tower that is, or starts from, the first teacher."""
    image = recipe.student.image
    if (recipe.on_teacher or image.init == "teacher") and facts[0].modality != "image":
        raise UserError(
            f"The first teacher, '{facts[0].name}', embeds texts and cannot be the image tower.",
            "Name the image teacher first.",
        )
    if recipe.on_teacher and (objective.needs.space == "logits" or objective.needs.heads == "independent"):
        what = "heads that ship with the image tower" if objective.needs.heads == "independent" else "an image student"
        raise UserError(
            f"The objective '{recipe.objective.name}' trains {what}, and the image tower is the locked teacher.",
            "Give student.image an architecture of its own.",
        )
    if recipe.on_teacher and not image.layers and facts[0].width != recipe.student.width:
        raise UserError(
            f"The teacher '{facts[0].name}' is the image tower and gives {facts[0].width} numbers an image, "
            f"student.width is {recipe.student.width}.",
            f"Set student.width = {facts[0].width}, or student.image.layers = 1 for a learned projection.",
        )
    card = card_of(recipe.teacher[0]) if recipe.teacher else None
    shipped = recipe.on_teacher or image.init == "teacher" or recipe.student.alpha
    if shipped and card is not None and card.build is not None:
        raise UserError(
            f"The network of '{card.name}' is none of timm's: it can teach, but not be an image tower that ships.",
            "Name another first teacher, or another student.image.",
        )
    if image.init == "teacher" and card is not None and image.arch != card.arch:
        raise UserError(
            f"student.image.init starts from '{card.name}', which is a '{card.arch}' and no '{image.arch}'.",
            f'Set student.image.arch = "{card.arch}".',
        )
    side = (recipe.teacher[0].image_size or card.image_size) if card else 0
    if image.beside is not None and recipe.data.image_size != side:
        raise UserError(
            f"The network beside the teacher looks at the same pixels, {side} a side; data.image_size is "
            f"{recipe.data.image_size}.",
            f"Set data.image_size = {side}.",
        )
