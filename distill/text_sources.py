"""What a text student is built like or starts from: an export or run of distill, or what another tool has saved."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import students
import teachers
from distill.config import Recipe
from distill.errors import UserError, as_user_errors
from distill.files import read_table
from distill.tables import NO_TOWER, TowerTable

LIKE = "like"  # the option of text towers that can be built like another tool's


def is_card(name: str) -> bool:
    """Whether a name is that of a teacher's card, and no path."""
    return not teachers.is_path(name) and any(card.name == name for card in teachers.cards())


def place(name: str) -> Path:
    """The folder or file that a recipe names: a path, or the folder of a text teacher's card.

    Raises:
        ImportError: if the package that contains the teacher is not installed.
        ValueError: if the card is an image teacher's.
    """
    return teachers.text_teacher_folder(teachers.card(name)) if is_card(name) else Path(name)


def own_table(path: Path) -> dict[str, Any] | None:
    """The text tower's "arch" and options in an export or a run of distill; None of anything else."""
    try:
        if (path / "run.json").is_file():
            table = read_table(path / "recipe.toml", tomllib.loads)["student"]["text"]
        else:
            config = read_table(path / "config.json", json.loads)
            if not str(config.get("format", "")).startswith("distill-export"):
                return None
            table = (config["text"] or {}).get("spec", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return table if isinstance(table, dict) else None


def source_of(table: TowerTable) -> str:
    """What a text tower's options follow from: ``like``, or else ``init``; "" if there is neither."""
    return str(table.options.get(LIKE) or table.init)


def complete_text(recipe: Recipe) -> Recipe:
    """The recipe with all options of its text tower that follow from what it is built like.

    A run's recipe has them all, so nothing is read for it.

    Raises:
        UserError: if what the recipe names does not exist or is no such tower, or it names nothing and must.
    """
    table = recipe.student.text
    if table.arch == NO_TOWER:
        return recipe
    with as_user_errors():
        tower = students.text_tower_class(table.arch)
    # An empty value stands for what follows.
    options = {k: v for k, v in table.options.items() if k not in tower.TAKEN or v or v is False}
    if set(tower.TAKEN) <= options.keys():
        return recipe
    name = source_of(table)
    with as_user_errors():
        path = place(name) if name else None
        if path is not None and not path.exists():
            key = LIKE if table.options.get(LIKE) else "init"
            raise UserError(
                f"student.text.{key} names {path}, which does not exist.",
                "Correct it; a run is resumed without it, with the recipe.toml in its folder.",
            )
        own = own_table(path) if path is not None else None
        if own is None:
            found = tower.options_of(path)
        elif own.get("arch") != table.arch:
            raise UserError(
                f"{path} has a text tower '{own.get('arch', NO_TOWER)}', and student.text.arch is '{table.arch}'.",
                "Correct one of them.",
            )
        else:
            found = {key: own[key] for key in tower.TAKEN if key in own}
    values = table.model_dump(exclude_none=True) | found | options
    student = recipe.student.model_copy(update={"text": TowerTable.model_validate(values)})
    return recipe.model_copy(update={"student": student})


def source_tokenizer(table: TowerTable, context: int) -> students.Tokenizer | None:
    """The tokenizer that comes with the text tower, or with what it starts from or is built like.

    Returns:
        None if it is trained from captions or named by the recipe.

    Raises:
        LookupError, ValueError, ImportError: if it cannot be read or does not fit.
    """
    tower = students.text_tower_class(table.arch)
    # The tower's token embeddings only fit the tokenizer it was trained with: first what it starts from.
    name = table.init or str(table.options.get(LIKE) or "")
    path = place(name) if name else None
    if path is not None and (own_table(path) is not None or not tower.TAKEN):
        return tower.Tokenizer.load(path / tower.Tokenizer.FILE, context)
    return tower.tokenizer_of(path, context)
