"""From a recipe to the parts of a run: shards, pairs, teachers, students. One place builds each of them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError
from torch import nn

import students
import teachers
from distill.config import Recipe
from distill.config import Teacher as TeacherTable
from distill.data.batch import FromCache, FromPixels, Pairs, TeacherInput
from distill.data.cache import Cache
from distill.data.captions import Captions, Tokenizer
from distill.data.shards import Shards
from distill.data.views import Views
from distill.errors import UserError, from_leaves
from distill.recipe import explain
from distill.train.model import Model


def views_of(recipe: Recipe) -> Views:
    """How a run draws views."""
    return Views(recipe.data.crop, recipe.data.flip)


def captions_of(recipe: Recipe) -> Captions:
    """How a run reads and draws captions."""
    data = recipe.data
    return Captions(data.caption_keys, data.languages, data.first_share, data.captions == "first")


def card_of(table: TeacherTable) -> teachers.Card:
    """The card of a recipe's teacher.

    Raises:
        UserError: if there is no such teacher.
    """
    with from_leaves():
        return teachers.card(table.name)


def caches_of(recipe: Recipe) -> list[Cache]:
    """The caches of the teachers that have one."""
    views = views_of(recipe)
    return [Cache(table, card_of(table), views) for table in recipe.teacher if table.cache != "none"]


@dataclass(frozen=True)
class Student:
    """The two towers of a run; ``image`` is None where the frozen teacher is the image tower."""

    image: students.image.ImageTower | None
    text: nn.Module


def image_student(recipe: Recipe) -> students.image.ImageTower | None:
    """The image student with random weights; None for LiT.

    Raises:
        UserError: if it cannot be built, or a locked teacher's width is not the student's.
    """
    student = recipe.student
    if recipe.locked:
        width = card_of(recipe.teacher[0]).width
        if width != student.width:
            raise UserError(
                f"The teacher '{recipe.teacher[0].name}' is the image tower and gives {width} numbers an image, "
                f"student.width is {student.width}.",
                f"Set student.width = {width}.",
            )
        return None
    with from_leaves():
        spec = students.ImageSpec(arch=student.image.arch, **student.image.options)
        return students.image_tower(spec, student.width, recipe.data.image_size)


def text_spec(recipe: Recipe) -> students.TextSpec:
    """The text tower's specification.

    Raises:
        UserError: if an option is unknown or out of range.
    """
    try:
        return students.TextSpec(arch=recipe.student.text.arch, **recipe.student.text.options)
    except ValidationError as error:
        raise UserError(*explain(error, students.TextSpec, "student.text")) from error


def text_student(recipe: Recipe, vocab: int) -> nn.Module:
    """The text student with random weights, for a tokenizer of ``vocab`` pieces."""
    with from_leaves():
        return students.text_tower(text_spec(recipe), vocab, recipe.student.width)


def model_of(recipe: Recipe, vocab: int, uses_heads: bool) -> Model:
    """The whole model with random weights; seed before calling."""
    widths = [card_of(table).width for table in recipe.teacher] if uses_heads else []
    student = recipe.student
    return Model(image_student(recipe), text_student(recipe, vocab), student.width, widths, student.temperature)


def pairs_of(recipe: Recipe, shards: Shards, tokenizer: Tokenizer) -> Pairs:
    """The training pairs of a run."""
    inputs: list[TeacherInput] = []
    for table in recipe.teacher:
        card = card_of(table)
        if table.cache == "none":
            inputs.append(FromPixels(table.image_size or card.image_size, card.interpolation))
        else:
            inputs.append(FromCache(Cache(table, card, views_of(recipe))))
    side = 0 if recipe.locked else recipe.data.image_size
    return Pairs(shards, captions_of(recipe), tokenizer, views_of(recipe), side, inputs, recipe.train.seed)
