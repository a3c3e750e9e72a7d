"""The run folder: its files, and how they are read and written."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.config import Recipe
from distill.errors import Bad, UserError
from distill.files import read_table, write_text, write_whole
from distill.lookup import resolve
from distill.recipe import dump, parse
from distill.resolved import ResolvedRecipe
from distill.rules import Rules
from students import Tokenizer

RECIPE, ABOUT = "recipe.toml", "run.json"
BAD_SAMPLES, EVENTS = "bad-samples.jsonl", "events.jsonl"


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder."""
    return (folder / RECIPE).is_file() and (folder / ABOUT).is_file()


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        UserError: if the folder is not a run folder, or its recipe is damaged.
    """
    if not is_run(run):
        raise UserError(f"{run} is not a run.", "Name a folder that 'distill train' wrote.")
    return parse(_read(run / RECIPE, tomllib.loads))


def read_about(run: Path) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Raises:
        UserError: if it is missing or damaged.
    """
    return _read(run / ABOUT, json.loads)


def rules_of(run: Path) -> Rules:
    """The rules by which a run orders samples and draws views.

    Raises:
        UserError: if ``run.json`` is missing or damaged.
    """
    try:
        return Rules.of_run(read_about(run))
    except TypeError as error:
        raise UserError(
            f"{run / ABOUT} names rules of another version of distill: {error}.", "Use the version that wrote it."
        ) from error


def resolve_run(run: Path) -> ResolvedRecipe:
    """The resolved recipe of a run, with the rules that it was started with.

    Raises:
        UserError: if the folder is not a run folder, or is damaged.
    """
    return resolve(read_recipe(run), rules_of(run))


def _read(path: Path, parse_text: Callable[[str], Any]) -> dict[str, Any]:
    try:
        return read_table(path, parse_text)
    except ValueError as error:
        raise UserError(
            f"{path} is missing or damaged: {error}.", "Restore it, or train into another folder."
        ) from error


def write_run(
    recipe: Recipe,
    run: Path,
    tokenizer: Tokenizer | None,
    about: dict[str, Any],
    save_data: Callable[[Path], None],
    bad: list[Bad],
) -> None:
    """Write a run folder with all its files, completely or not at all.

    Args:
        recipe: with all options, as resolved.
        run: the folder, which does not exist yet or is empty.
        tokenizer: the text student's; None without a text student.
        about: the content of ``run.json``.
        save_data: writes to a given folder the files that reopening the training set needs.
        bad: the unusable samples that are known before training.

    Raises:
        UserError: if another process has created the folder in the meantime.
    """
    unfinished = run.with_name(f".{run.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    if tokenizer is not None:
        model = tokenizer.model
        write_whole(unfinished / tokenizer.FILE, lambda to: to.write_bytes(model))
    write_text(unfinished / ABOUT, json.dumps(about, indent=1) + "\n")
    save_data(unfinished)
    if bad:
        lines = [json.dumps({"step": 0} | sample._asdict(), ensure_ascii=False) + "\n" for sample in bad]
        write_text(unfinished / BAD_SAMPLES, "".join(lines))
    write_text(unfinished / RECIPE, dump(recipe))
    try:
        unfinished.rename(run)  # fails if another process has written a run there
    except OSError as error:
        shutil.rmtree(unfinished)
        raise UserError(
            f"{run} has been created by another process in the meantime: {error.strerror}.", "Choose another --out."
        ) from error
