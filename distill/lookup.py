"""Resolves a recipe: looks up its cards, objective, towers and optimiser by name, without loading any weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

import losses
import students
import teachers
from distill import plugins
from distill.config import ObjectiveTable, Optim, Recipe, TeacherTable
from distill.errors import UserError, as_user_errors
from distill.initial import Source, source_of
from distill.other_names import remedy_for_value
from distill.resolved import ResolvedRecipe, ResolvedTeacher, check_compatibility
from distill.rules import NEW_RUNS, Rules
from distill.tables import NO_TOWER
from distill.text_sources import LIKE, complete_text
from distill.validation import explain, explain_options

OUTPUTS = ("embedding", "logits", "tokens")  # the outputs of teachers, in the order in which caches store them
EVALUATIONS = ("distill.evals", "EVALUATION", "distill.evaluations")
OPTIMIZERS = ("distill.training.optimizers", "OPTIMIZER", "distill.optimizers")  # arguments of plugins.load, as above


def resolve(recipe: Recipe, rules: Rules = NEW_RUNS) -> ResolvedRecipe:
    """Look up everything that a recipe names, and check that the parts fit together.

    Args:
        recipe: the recipe.
        rules: those of the run; by default those of new runs.

    Raises:
        UserError: if a name does not exist or parts do not fit; the message names them.
    """
    objective, optimizer = find_objective(recipe), find_optimizer(recipe)
    needs = objective.needs
    # A run must go on with the optimiser's options that it began with, also where another version has other defaults.
    optim = Optim.model_validate(recipe.optim.model_dump() | optimizer.model_dump(exclude_none=True))
    recipe = complete_text(recipe.model_copy(update={"optim": optim}))
    with as_user_errors():
        named = find_teachers(recipe, needs.teachers, rules)
    recipe, source = with_source(recipe, named[0].card if named else None, rules)
    used_count = len(named) if needs.teachers else int(recipe.on_teacher)
    text, text_options = find_text_tower(recipe)
    if text_options is not None and hasattr(text_options, LIKE):
        text_options = text_options.model_copy(update={LIKE: ""})  # what ships names no folder of this machine
    resolved = ResolvedRecipe(
        recipe=recipe,
        objective=objective,
        needs=needs,
        named=named,
        source=source,
        teachers=named[:used_count],
        optimizer=optimizer,
        evaluations=tuple(find_evaluation(table.task, table.options) for table in recipe.evaluate),
        text=text,
        text_options=text_options,
        rules=rules,
    )
    check_compatibility(resolved)
    return resolved


def with_source(recipe: Recipe, first: teachers.Card | None, rules: Rules) -> tuple[Recipe, Source | None]:
    """Where the image student's weights come from, and the recipe with the statistics of its input that follow.

    Raises:
        UserError: if there are no such weights.
    """
    image = recipe.student.image
    source = source_of(image, first)
    if source is None or source.statistics is None or image.mean or rules.statistics == 1:
        return recipe, source
    mean, std = source.statistics
    image = image.model_copy(update={"mean": mean, "std": std})
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"image": image})}), source


def find_teachers(recipe: Recipe, read: Sequence[str], rules: Rules) -> tuple[ResolvedTeacher, ...]:
    """All teachers of a recipe, of a pair the image tower first; raises like :func:`teachers.towers`.

    Args:
        read: the outputs of teachers that the objective reads.
        rules: those of the run.
    """
    tables = [(number, table, card) for number, table in enumerate(recipe.teacher) for card in find_cards(table)]
    cards = [card for _, _, card in tables]
    return tuple(
        ResolvedTeacher(
            name=unique_name(cards, k),
            number=number,
            table=table,
            card=card,
            facts=facts_of(table, card, read, runs_online(table, card, rules)),
            outputs=outputs_of(read, image_tower=recipe.on_teacher and k == 0),
            online=runs_online(table, card, rules),
        )
        for k, (number, table, card) in enumerate(tables)
    )


def find_cards(table: TeacherTable) -> tuple[teachers.Card, ...]:
    """The cards of a recipe's teacher, one or both of a pair; raises like :func:`teachers.towers`."""
    cards = teachers.towers(table.name, table.tower)
    if not table.weights:
        return cards
    return tuple(teachers.with_weights(card, table.weights, table.sha256) for card in cards)


def facts_of(table: TeacherTable, card: teachers.Card, outputs: Sequence[str], online: bool) -> losses.TeacherFacts:
    """The facts about a teacher for an objective that reads the given outputs."""
    tokens = teachers.token_shape(card, table.image_size)[1] if "tokens" in outputs else 0
    return losses.TeacherFacts(
        card.name, card.modality, card.width, card.classes, online, tokens, temperature=card.temperature
    )


def unique_name(cards: Sequence[teachers.Card], k: int) -> str:
    """The name of card k, followed by a number if cards before it have the same name."""
    before = [card.name for card in cards[:k]].count(cards[k].name)
    return f"{cards[k].name} ({before + 1})" if before else cards[k].name


def runs_online(table: TeacherTable, card: teachers.Card, rules: Rules) -> bool:
    """Whether a teacher runs during training, instead of filling a cache before."""
    return table.cache == "none" or (card.modality == "text" and rules.captions == 1)


def outputs_of(read: Sequence[str], image_tower: bool) -> tuple[str, ...]:
    """The outputs that a teacher must compute: those that the objective reads, and "embedding" for an image tower."""
    return tuple(name for name in OUTPUTS if name in read or (name == "embedding" and image_tower))


def find_objective(recipe: Recipe) -> losses.Objective:
    """The objective of a recipe.

    Raises:
        UserError: if there is no objective of that name, or an option is unknown or has a wrong value.
    """
    name = recipe.objective.name
    try:
        objective_class = losses.objective_class(name)
    except LookupError as error:
        raise UserError(
            f"There is no objective '{name}'.",
            remedy_for_value("objective.name", name, str(error.args[0]).split(". ", 1)[-1]),
        ) from error
    except ImportError as error:
        raise UserError(str(error)) from error
    try:
        return objective_class(**recipe.objective.options)
    except ValidationError as error:
        raise UserError(*explain(error, objective_class, "objective", ObjectiveTable.model_fields)) from error


def find_text_tower(recipe: Recipe) -> tuple[type[students.TextTower], students.TextOptions] | tuple[None, None]:
    """The class of the text tower and its options; None and None without a text student.

    Raises:
        UserError: if there is no such architecture, or an option is unknown or out of range.
    """
    table = recipe.student.text
    if table.arch == NO_TOWER:
        return None, None
    with as_user_errors():
        tower = students.text_tower_class(table.arch)
    try:
        return tower, tower.Options(**table.options)
    except ValidationError as error:
        raise UserError(*explain(error, tower.Options, "student.text")) from error


def find_evaluation(name: str, options: Mapping[str, Any]) -> Any:
    """The evaluation called ``name`` with its options, a :class:`distill.evals.evaluation.Evaluation`.

    Raises:
        UserError: if there is none of that name, or an option of it is unknown or has a wrong value.
    """
    kind = plugins.load("evaluation", name, *EVALUATIONS, lambda thing: hasattr(thing, "measure"))
    try:
        return kind(**options)
    except ValidationError as error:
        raise UserError(*explain_options(error, kind, f"The evaluation '{name}'", "--set")) from error


def find_optimizer(recipe: Recipe) -> Any:
    """The optimiser of a recipe with its options, a :class:`distill.training.optimizer.Optimizer`.

    Raises:
        UserError: if there is no optimiser of that name, an option is unknown or has a wrong value, or it does not
            work at the recipe's ZeRO stage.
    """
    name, stage = recipe.optim.name, recipe.zero.stage
    optimizer_class = load_optimizer(name)
    try:
        optimizer = optimizer_class.model_validate(recipe.optim.options)
    except ValidationError as error:
        raise UserError(*explain(error, optimizer_class, "optim", Optim.model_fields)) from error
    if stage > optimizer.highest_stage:
        highest, available = optimizer.highest_stage, plugins.found(*OPTIMIZERS)
        others = [f'"{other}"' for other in available if works_at(other, stage)]
        needs = f"at most {highest}" if highest else "= 0"
        raise UserError(
            f'The recipe does not check out: optim.name = "{name}" needs zero.stage {needs}; '
            f"use {' or '.join(others) or 'another one'} from stage {highest + 1} on.",
            optimizer.stage_reason,
        )
    return optimizer


def load_optimizer(name: str) -> Any:
    """The class of an optimiser; raises ``UserError`` like :func:`distill.plugins.load`."""
    return plugins.load("optimizer", name, *OPTIMIZERS, lambda thing: hasattr(thing, "highest_stage"))


def works_at(name: str, stage: int) -> bool:
    """Whether an optimiser works at a ZeRO stage; one that cannot be loaded does not."""
    try:
        return bool(load_optimizer(name).highest_stage >= stage)
    except UserError:
        return False
