"""The two students of a recipe: built, started from what it names, and locked as it says."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

import students
import teachers
from distill.config import TEACHER, Recipe
from distill.errors import UserError, as_user_errors
from distill.lookup import card_of
from distill.tables import TowerTable
from distill.validation import explain


def image_student(recipe: Recipe) -> students.Tower | students.OnTeacher:
    """The image student, as it is before the first step but for the weights it starts from; see :func:`start`.

    Raises:
        UserError: if it cannot be built.
    """
    table, width = recipe.student.image, recipe.student.width
    if recipe.on_teacher:
        return on_teacher(recipe)
    statistics = None
    if table.init == TEACHER:
        card = card_of(recipe.teacher[0])
        statistics = (card.mean, card.std)
    with as_user_errors():
        spec = students.ImageSpec(arch=table.arch, **table.options)
        return students.image_tower(spec, width, recipe.data.image_size, statistics)


def on_teacher(recipe: Recipe) -> students.OnTeacher:
    """What is learned on top of, and beside, the first teacher; nothing in LiT."""
    table, card = recipe.student.image, card_of(recipe.teacher[0])
    beside, features = None, 0
    if table.beside is not None:
        with as_user_errors():
            spec = students.ImageSpec(**table.beside)
            beside = students.image_tower(spec, 0, recipe.data.image_size)
        features = beside.features(recipe.data.image_size)
    return students.OnTeacher(card.width, recipe.student.width, table.layers, beside, features)


def text_spec(recipe: Recipe) -> students.TextSpec:
    """The text tower's specification.

    Raises:
        UserError: if an option is unknown or out of range.
    """
    try:
        return students.TextSpec(arch=recipe.student.text.arch, **recipe.student.text.options)
    except ValidationError as error:
        raise UserError(*explain(error, students.TextSpec, "student.text")) from error


def text_student(recipe: Recipe, vocab: int) -> students.Tower:
    """The text student with random weights, for a tokenizer of ``vocab`` pieces."""
    with as_user_errors():
        return students.text_tower(text_spec(recipe), vocab, recipe.student.width)


def start(tower: students.Tower | students.OnTeacher, table: TowerTable, kind: str, recipe: Recipe) -> None:
    """Give a tower the weights its table starts from, and lock the parts its table locks.

    Args:
        kind: "image" or "text".

    Raises:
        UserError: if the weights are not there or do not fit, or there is no part of that name.
    """
    if isinstance(tower, students.OnTeacher):
        return
    with as_user_errors():
        if table.init:
            tower.start_from(initial_weights(table.init, kind, recipe))
        tower.lock(table.locked)


def initial_weights(init: str, kind: str, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The state dict to start a tower from: the first teacher's network, or a tower of an export.

    Raises:
        ValueError: if the export's file is missing or damaged.
    """
    if init == TEACHER:
        return dict(teachers.load(card_of(recipe.teacher[0]), recipe.teacher[0].image_size).net.state_dict())
    path = Path(init) / f"{kind}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Set student.{kind}.init to a folder that 'distill export' wrote."
        ) from error
