"""Settings of variants as they are written: on the command line, from Python, and in files of grids."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from itertools import product as combinations
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from distill.errors import UserError, did_you_mean
from distill.evals.data_options import Strings
from distill.files import read_table
from distill.tables import Table

CLOSING = {"[": "]", "{": "}"}


class VariantTable(Table):
    """A variant in the file of a grid.

    Attributes:
        set: its settings, ``section.key=value`` as for ``--set``.
    """

    set: tuple[str, ...] = ()


class GridTable(Table):
    """The file of a grid.

    Attributes:
        reference: the variant that the others are compared with; "" is the recipe as it is.
        seeds: how many seeds a variant is trained with, unless the command says another number.
        task: the tasks that runs are evaluated on.
        data: what they are evaluated on; relative paths are relative to the file.
        options: further options of the tasks, as for ``distill evaluate --set``.
        variant: the variants by name.
    """

    reference: str = ""
    seeds: int = Field(default=0, ge=0)
    task: Strings = ()
    data: Strings = ()
    options: dict[str, Any] = {}
    variant: dict[str, VariantTable] = {}


@dataclass(frozen=True)
class Grid:
    """A grid, and the folder that its relative paths are relative to."""

    table: GridTable = field(default_factory=GridTable)
    folder: Path = field(default_factory=Path.cwd)


def packaged_grids() -> dict[str, Path]:
    """The grids that come with distill, by name."""
    folder = Path(str(resources.files("distill") / "grids"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_grid(source: str | Path | None) -> Grid:
    """A grid from a TOML file, or the packaged one of this name; an empty one for None.

    Raises:
        UserError: if there is none, it is not TOML, or a key or value of it is not valid.
    """
    if source is None:
        return Grid()
    known = packaged_grids()
    if not Path(source).is_file() and str(source) not in known:
        hint = did_you_mean(str(source), known, f"Give a TOML file or one of: {', '.join(known)}.")
        raise UserError(f"There is no grid '{source}'.", hint)
    path = Path(source) if Path(source).is_file() else known[str(source)]
    try:
        return Grid(GridTable.model_validate(read_table(path, tomllib.loads)), path.parent.absolute())
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            keys = (VariantTable if len(first["loc"]) > 1 else GridTable).model_fields
            remedy = did_you_mean(str(first["loc"][-1]), keys, f"Known: {', '.join(keys)}.")
            raise UserError(f"The grid {path} has an unknown key '{name}'.", remedy) from error
        raise UserError(f"The '{name}' of the grid {path} is not valid: {first['msg']}.", "Correct it.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {error}.", "Correct that line.") from error


def axes_from(texts: Iterable[str]) -> dict[str, list[str]]:
    """``KEY=V1,V2`` of the command line: the values of each key.

    Raises:
        UserError: if one is not of that form, or a key comes twice.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        found = split(values, ",")
        if not key or not equals or not all(found):
            raise UserError(
                f"--axis {text} is not of the form KEY=V1,V2.", "Write --axis objective.weight=0.5,2, for example."
            )
        if key in axes:
            raise UserError(f"--axis {key} is given twice.", "Name all its values once, divided by commas.")
        axes[key] = found
    return axes


def variants_from(texts: Iterable[str]) -> dict[str, list[str]]:
    """``NAME: key=value; key=value`` of the command line: the settings of each variant.

    Raises:
        UserError: if one has no name, or a name comes twice.
    """
    named: dict[str, list[str]] = {}
    for text in texts:
        name, colon, settings = text.partition(":")
        if not colon or not name.strip():
            raise UserError(
                f"--variant {text} is not of the form 'NAME: KEY=VALUE; KEY=VALUE'.",
                "Write --variant 'no heads: objective.heads=none', for example.",
            )
        if name.strip() in named:
            raise UserError(f"--variant names '{name.strip()}' twice.", "Choose another name.")
        named[name.strip()] = [setting for setting in split(settings, ";") if setting]
    return named


def split(text: str, separator: str) -> list[str]:
    """The parts between separators that are not inside of brackets, braces or quotation marks, without blanks."""
    parts, closing, quote = [""], list[str](), ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in CLOSING:
            closing.append(CLOSING[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == separator and not closing:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]


def settings_of_axes(axes: Mapping[str, Iterable[Any]], product: bool) -> dict[str, list[str]]:
    """The settings of the variants that axes stand for, by name.

    Args:
        axes: the values of each key; a string is read as ``--set`` would read it.
        product: whether every combination is a variant; otherwise every value of each axis is one, the other keys
            keeping the value of the recipe.
    """
    steps = [[f"{key}={as_toml(value)}" for value in values] for key, values in axes.items()]
    chosen = list(combinations(*steps)) if product and steps else [(setting,) for own in steps for setting in own]
    return {", ".join(settings): list(settings) for settings in chosen}


def as_toml(value: Any) -> str:
    """A value in TOML, on one line; a string as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(key)} = {_nested(one)}" for key, one in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_nested, value))}]"
    return json.dumps(value)


def _nested(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else as_toml(value)
