"""A recipe's names looked up: cards, objective, text tower; once, into one frozen object, and nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

import losses
import students
import teachers
from distill.config import Recipe, TeacherTable
from distill.errors import UserError, as_user_errors
from distill.tables import NO_TOWER, ImageTowerTable
from distill.validation import explain

OUTPUTS = ("embedding", "logits", "tokens")  # of teachers, in the order in which caches keep them


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
        recipe: as the user wrote it.
        objective: what is optimised.
        needs: what the objective asks for.
        facts: what the objective may know of each of the recipe's teachers.
        first: the card of the recipe's first teacher, which may be the image tower or give its first weights.
        teachers: those that training uses: all of them if the objective reads any output of a teacher, the first
            one if it is the image tower, or none.
        text: the class of the text tower; None without a text student.
        text_options: of that tower.
    """

    recipe: Recipe
    objective: losses.Objective
    needs: losses.Needs
    facts: tuple[losses.TeacherFacts, ...]
    first: teachers.Card | None
    teachers: tuple[ResolvedTeacher, ...]
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


def resolve(recipe: Recipe) -> ResolvedRecipe:
    """Look up a recipe's names, and check that what they stand for makes sense together.

    Raises:
        UserError: naming what does not exist or does not fit.
    """
    objective = find_objective(recipe)
    needs = objective.needs
    with as_user_errors():
        cards = tuple(find_card(table) for table in recipe.teacher)
        facts = tuple(facts_of(table, card, needs.teachers) for table, card in zip(recipe.teacher, cards, strict=True))
    used = len(cards) if needs.teachers else int(recipe.on_teacher)
    text, text_options = find_text_tower(recipe)
    resolved = ResolvedRecipe(
        recipe=recipe,
        objective=objective,
        needs=needs,
        facts=facts,
        first=cards[0] if cards else None,
        teachers=tuple(
            ResolvedTeacher(
                name=unique_name(cards, k),
                table=table,
                card=card,
                outputs=outputs_of(needs.teachers, image_tower=recipe.on_teacher and k == 0),
                online=runs_online(table, card),
            )
            for k, (table, card) in enumerate(zip(recipe.teacher[:used], cards[:used], strict=True))
        ),
        text=text,
        text_options=text_options,
    )
    check_objective(resolved)
    check_teachers(resolved)
    check_caches(resolved)
    if recipe.on_teacher or recipe.student.image.init or recipe.student.alpha:
        check_image_tower(resolved)
    return resolved


def find_card(table: TeacherTable) -> teachers.Card:
    """The card of a recipe's teacher; raises what ``teachers.card`` raises."""
    card = teachers.card(table.name)
    return teachers.with_weights(card, table.weights, table.sha256) if table.weights else card


def facts_of(table: TeacherTable, card: teachers.Card, outputs: Sequence[str]) -> losses.TeacherFacts:
    """What an objective that reads such outputs may know of a teacher."""
    tokens = teachers.token_shape(card, table.image_size)[1] if "tokens" in outputs else 0
    return losses.TeacherFacts(card.name, card.modality, card.width, card.classes, runs_online(table, card), tokens)


def unique_name(cards: Sequence[teachers.Card], k: int) -> str:
    """The name of card k, with a number where cards before it have the same."""
    before = [card.name for card in cards[:k]].count(cards[k].name)
    return f"{cards[k].name} ({before + 1})" if before else cards[k].name


def runs_online(table: TeacherTable, card: teachers.Card) -> bool:
    """Whether a teacher runs while training."""
    return table.cache == "none" or card.modality == "text"


def outputs_of(read: Sequence[str], image_tower: bool) -> tuple[str, ...]:
    """What a teacher has to give: what the objective reads, and its embedding if it is the image tower."""
    return tuple(name for name in OUTPUTS if name in read or (name == "embedding" and image_tower))


def find_objective(recipe: Recipe) -> losses.Objective:
    """The objective of a recipe.

    Raises:
        UserError: if there is none of that name, or an option of it does not hold.
    """
    with as_user_errors():
        objective_class = losses.objective_class(recipe.objective.name)
    try:
        return objective_class(**recipe.objective.options)
    except ValidationError as error:
        raise UserError(*explain(error, objective_class, "objective")) from error


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


def check_objective(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if objective, teachers and students do not fit together."""
    recipe, needs, facts = resolved.recipe, resolved.needs, resolved.facts
    try:
        resolved.objective.check(facts, resolved.modalities)
    except ValueError as error:
        raise UserError(f"The objective '{recipe.objective.name}' {error}") from error
    if recipe.student.alpha and (not needs.combinable or facts[0].modality != "image"):
        raise UserError(
            "student.alpha combines the embeddings of an image teacher and the student, which share a space only "
            "where no head stands between them.",
            'Train with objective.name = "three_towers" and objective.heads = "none", or leave out alpha.',
        )


def check_teachers(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if a text teacher has settings of an image teacher, or reads captions that are not there."""
    for number, (table, fact) in enumerate(zip(resolved.recipe.teacher, resolved.facts, strict=True)):
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


def check_caches(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if the teacher caches do not fit the data or each other."""
    recipe, tables = resolved.recipe, resolved.recipe.teacher
    cached = [number for number, teacher in enumerate(resolved.teachers) if not teacher.online]
    if recipe.data.streamed and cached:
        raise UserError(
            f"The teacher '{resolved.facts[cached[0]].name}' has a cache, and data.train are streams, whose samples "
            "have no rows in it.",
            f'Set teacher.{cached[0]}.cache = "none", or copy the shards to a mounted folder.',
        )
    folders = [Path(tables[k].cache).resolve() for k in cached if tables[k].cache != "auto"]
    if twice := [folder for k, folder in enumerate(folders) if folder in folders[:k]]:
        raise UserError(
            f"Two teachers name the same cache folder, {twice[0]}.",
            'Name a folder of its own for each as teacher.N.cache, or set teacher.N.cache = "auto".',
        )
    with_caches = [table for table, fact in zip(tables, resolved.facts, strict=True) if not fact.online]
    if len({table.views for table in with_caches}) > 1:
        raise UserError(
            "All teachers must cache the same number of views: the student sees the same ones.",
            "Set the same teacher.N.views for each.",
        )


def check_image_tower(resolved: ResolvedRecipe) -> None:
    """Raise ``UserError`` if an image tower that is, or starts from, the first teacher does not fit it."""
    recipe, facts, card = resolved.recipe, resolved.facts, resolved.first
    image, needs = recipe.student.image, resolved.needs
    if (recipe.on_teacher or image.init == "teacher") and facts[0].modality != "image":
        raise UserError(
            f"The first teacher, '{facts[0].name}', embeds texts and cannot be the image tower.",
            "Name the image teacher first.",
        )
    own_tower = needs.teachers and "embedding" not in needs.teachers  # what it trains is an image student
    if recipe.on_teacher and (own_tower or needs.folded):
        what = "heads that ship with the image tower" if needs.folded else "an image student"
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
    if card is None:
        return
    if (recipe.on_teacher or image.init == "teacher" or recipe.student.alpha) and card.build is not None:
        raise UserError(
            f"The network of '{card.name}' is none of timm's: it can teach, but not be an image tower that ships.",
            "Name another first teacher, or another student.image.",
        )
    check_same_network(image, card)
    side = recipe.teacher[0].image_size or card.image_size
    if image.beside is not None and recipe.data.image_size != side:
        raise UserError(
            f"The network beside the teacher looks at the same pixels, {side} a side; data.image_size is "
            f"{recipe.data.image_size}.",
            f"Set data.image_size = {side}.",
        )


def check_same_network(image: ImageTowerTable, card: teachers.Card) -> None:
    """Raise ``UserError`` if an image student starts from a teacher of another architecture."""
    if image.init == "teacher" and image.arch != card.arch:
        raise UserError(
            f"student.image.init starts from '{card.name}', which is a '{card.arch}' and no '{image.arch}'.",
            f'Set student.image.arch = "{card.arch}".',
        )
