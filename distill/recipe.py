"""Reading and writing recipes: TOML, ``--set`` overrides, and errors that say what to do."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from distill.config import Recipe
from distill.data_table import is_remote
from distill.errors import UserError, did_you_mean
from distill.files import read_table
from distill.tables import NO_TOWER, TEACHER
from distill.validation import explain

LENGTHS = ("train.steps", "train.epochs", "train.examples")


def packaged() -> dict[str, Path]:
    """The recipes that come with distill, by name."""
    folder = Path(str(resources.files("distill") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(source: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe; whether its names exist is for :func:`distill.lookup.resolve` to find out.

    Args:
        source: a TOML file, or the name of a packaged recipe.
        overrides: ``section.key=value``; the value is TOML, or else a string; ``teacher.0.cache=DIR``.

    Raises:
        UserError: if there is no such recipe, it is not TOML, or a key or value of it is not valid.
    """
    return parse(read_tree(find(source), overrides))


def find(source: str) -> Path:
    """The file of a recipe: ``source`` itself, or that of the packaged recipe of this name.

    Raises:
        UserError: if there is neither.
    """
    known = packaged()
    if Path(source).is_file():
        return Path(source)
    if source not in known:
        hint = did_you_mean(source, known, f"Give a TOML file or one of: {', '.join(known)}.")
        raise UserError(f"There is no recipe '{source}'.", hint)
    return known[source]


def read_tree(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The parsed TOML of a recipe file with overrides, in which relative paths have become absolute.

    Raises:
        UserError: if it is not TOML, or an override cannot be applied.
    """
    try:
        tree = read_table(path, tomllib.loads)
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {error}.", "Correct that line.") from error
    # Relative paths in a file are relative to its folder, those in overrides to the working directory.
    anchor(tree, path.parent.absolute())
    for override in overrides:
        apply_override(tree, override)
    anchor(tree, Path.cwd())
    return tree


def purpose(path: Path) -> str:
    """What a recipe is for: the comment lines at the start of its file, as one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("#").strip() for line in comments)


def parse(tree: dict[str, Any]) -> Recipe:
    """A recipe from its parsed TOML.

    Raises:
        UserError: naming the first key that does not exist or value that is not valid.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(*explain(error, Recipe)) from error


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set ``section.key=value`` in a parsed recipe.

    Raises:
        UserError: if it has no "=", or a list index that does not exist.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override} is not of the form section.key=value.", "Write --set optim.lr=0.001.")
    value = toml_or_string(text)
    *parents, last = path.split(".")
    if path in LENGTHS and isinstance(tree.get("train"), dict):
        # Only one of them may be set: the override replaces the one in the file.
        tree["train"] = {k: v for k, v in tree["train"].items() if f"train.{k}" not in LENGTHS}
    node: Any = tree
    for key in parents:
        node = descend(node, key, override)
    if isinstance(node, list):
        descend(node, last, override)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"--set {override}: '{last}' lies below a value that is not a table.", "Shorten the path.")


def toml_or_string(text: str) -> Any:
    """A value typed on the command line: what it is in TOML, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def descend(node: Any, key: str, override: str) -> Any:
    """The value under ``key`` in a table, where it is added if missing, or in a list, where it must exist.

    Raises:
        UserError: if the list has no such index, or the node is neither a table nor a list.
    """
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise UserError(f"--set {override}: there is no entry '{key}'; the list has {len(node)}.", "Count from 0.")
        return node[int(key)]
    if not isinstance(node, dict):
        raise UserError(f"--set {override}: '{key}' lies below a value that is not a table.", "Shorten the path.")
    return node.setdefault(key, {})


def anchor(tree: dict[str, Any], base: Path) -> None:
    """Make the relative paths in a parsed recipe absolute, in place; all other values stay.

    Args:
        tree: the parsed recipe, which need not be valid.
        base: the folder that they are relative to.
    """
    from teachers import is_card_name, is_path

    def is_card(name: Any) -> bool:
        return isinstance(name, str) and is_card_name(name) and not (base / name).exists()

    def absolute(value: Any, *words: str) -> Any:
        if isinstance(value, list):
            return [absolute(v, *words) for v in value]
        if not isinstance(value, str) or value in ("", *words) or is_remote(value):
            return value
        return str(base / Path(value).expanduser())

    tables: list[tuple[Any, str, tuple[str, ...]]] = [
        (tree.get("data"), "train", ()),
        (tree.get("data"), "eval", ()),
    ]
    student = tree.get("student")
    if isinstance(student, dict):
        tables += [(student.get("tokenizer"), "file", ())]
        for tower, keys in (("image", ("init",)), ("text", ("init", "like"))):
            named = student.get(tower)
            if isinstance(named, dict):
                tables += [(named, key, ("teacher",)) for key in keys if not is_card(named.get(key))]
    evaluations = tree.get("evaluate")
    for evaluation in evaluations if isinstance(evaluations, list) else []:
        tables += [(evaluation, key, ()) for key in ("data", "train", "classes", "outliers")]
        tables += [(evaluation, "templates", ("plain", "name"))]
    teachers = tree.get("teacher")
    for teacher in teachers if isinstance(teachers, list) else []:
        tables += [(teacher, "cache", ("auto", "none")), (teacher, "weights", ())]
        if isinstance(teacher, dict) and is_path(str(teacher.get("name", ""))):
            tables += [(teacher, "name", ())]
    for table, key, words in tables:
        if isinstance(table, dict) and key in table:
            table[key] = absolute(table[key], *words)


def start_from(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the students of a run or an export as initial weights.

    Raises:
        UserError: if it names initial weights itself, or trains no student from weights.
    """
    student = recipe.student
    towers = [name for name in ("image", "text") if getattr(student, name).arch not in (NO_TOWER, TEACHER)]
    for name in towers:
        if getattr(student, name).init:
            raise UserError(
                f"The recipe names initial weights itself: student.{name}.init.", "Leave out either that or --init."
            )
    if not towers:
        raise UserError("The recipe trains no tower that could start from weights.", "Leave out --init.")
    tree = recipe.model_dump(exclude_none=True)
    for name in towers:
        tree["student"][name]["init"] = str(folder.absolute())
    return parse(tree)


def dump(recipe: Recipe) -> str:
    """The recipe as TOML that ``load`` reads back to an equal one."""
    # TOML has no null: a key without a value is left out, and its default is read back.
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))
