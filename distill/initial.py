"""What ``student.image.init`` names: a teacher's weights, those of an export or a run, or a file."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import teachers
from distill.errors import UserError, as_user_errors
from distill.files import read_table
from distill.tables import TEACHER, ImageTowerTable

EXPORT, RUN = "config.json", "recipe.toml"  # the files by which an export, or a folder of timm's, and a run are known
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Source:
    """Where the initial weights of an image student come from.

    Attributes:
        name: for messages and the run's record.
        card: of the network that they are of; None for an export or a run.
        folder: of an export or a run; None for a card.
        file: whether the card is that of the student's own architecture with the weights of a file.
        statistics: mean and standard deviation of the input's channels with which they were trained; None if they are
            those of the architecture in timm.
    """

    name: str
    card: teachers.Card | None = None
    folder: Path | None = None
    file: bool = False
    statistics: Statistics | None = None


def source_of(image: ImageTowerTable, first: teachers.Card | None) -> Source | None:
    """What the initial weights of an image student are of; None if they are random.

    Args:
        image: the table of the student.
        first: the first teacher's card.

    Raises:
        UserError: if there is nothing of that name, or it is no image network of timm's.
    """
    init, path = image.init, Path(image.init).expanduser()
    if not init:
        return None
    if init == TEACHER:
        return of_card(first.name, first) if first is not None else None
    if path.is_file():
        return of_file(path, image.arch)
    if (path / RUN).is_file():
        return Source(path.name, folder=path, statistics=statistics_in_run(path))
    tree = read_json(path / EXPORT)
    if tree is not None and "architecture" not in tree:
        return Source(path.name, folder=path, statistics=statistics_in_export(tree))
    if image.mean and path.is_absolute() and not path.exists():
        # A run's own recipe states the statistics, so that the run goes on when what it started from is gone.
        return Source(path.name, folder=path)
    with as_user_errors():
        try:
            return of_card(init, teachers.card(init))
        except LookupError as error:
            hint = str(error.args[0]).split(". ", 1)[-1]
            raise UserError(
                f"student.image.init is '{init}', which is neither a file, nor the folder of an export, a run or a "
                "timm model, nor a teacher.",
                hint if hint.startswith("Did you mean") else "Correct it; 'distill teachers list' lists teachers.",
            ) from error


def of_card(name: str, card: teachers.Card) -> Source:
    """The source that a card describes; raises ``UserError`` if it is no image network of timm's."""
    if card.modality != "image":
        raise UserError(f"'{name}' embeds texts; an image student cannot start from it.", "Name an image encoder.")
    if not card.is_timm:
        raise UserError(
            f"The network of '{name}' is none of timm's, so no image student can start from it.",
            "Name another student.image.init, or leave it out.",
        )
    return Source(name, card=card, statistics=(card.mean, card.std))


def of_file(path: Path, arch: str) -> Source:
    """The source of a file with the weights of a student's own architecture, or of a larger one of its family."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"student.image.init names {path}, which is no file of weights.", f"Name one of {', '.join(SUFFIXES)}."
        )
    with as_user_errors():
        card = teachers.with_weights(teachers.card(f"timm/{arch}"), str(path))
    return Source(path.name, card=card, file=True, statistics=(card.mean, card.std))


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file that holds a table; None if there is no such file, or something else in it."""
    try:
        return read_table(path, json.loads)
    except ValueError:
        return None


def statistics_in_export(tree: dict[str, Any]) -> Statistics | None:
    """The statistics that an export's ``config.json`` states; None if it is damaged, which shows when it is loaded."""
    image = tree.get("image")
    try:
        return tuple(image["mean"]), tuple(image["std"])  # type: ignore[index]
    except (TypeError, KeyError):
        return None


def statistics_in_run(run: Path) -> Statistics | None:
    """The statistics that a run's recipe states; None if the student has those of its architecture."""
    try:
        image = read_table(run / RUN, tomllib.loads)["student"]["image"]
        return tuple(image["mean"]), tuple(image["std"])
    except (ValueError, TypeError, KeyError):
        return None


def arch_of(card: teachers.Card) -> str:
    """The name of a card's architecture without the tag of its weights."""
    return card.arch.split(".")[0]
