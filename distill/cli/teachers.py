"""``distill teachers``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill.cli.launch_options import launch_options

if TYPE_CHECKING:
    from launch.launcher import Launcher


@click.group()
def teachers() -> None:
    """List teachers, and embed shards with them ahead of training."""


@teachers.command("list")
@click.argument("words", nargs=-1)
@click.option("--modality", type=click.Choice(["image", "text"]), help="What they embed.")
@click.option("--max-parameters", metavar="N", help="At most so many weights, such as 90M.")
@click.option("--loaded", is_flag=True, help="Short for --checked loaded.")
@click.option(
    "--checked",
    type=click.Choice(["loaded", "layout", "configuration"]),
    help="What was tried: the real weights, a file of random weights, or the configuration only.",
)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_(
    words: tuple[str, ...],
    modality: str | None,
    max_parameters: str | None,
    loaded: bool,
    checked: str | None,
    as_json: bool,
) -> None:
    """List teachers that have a card; with WORDS, those with all of them in name, data, licence or paper.

    Other teachers: timm/ARCH is any timm model, and a path such as ./FOLDER is an encoder saved by timm, transformers,
    open_clip or sentence-transformers.

    \b
    Examples:
      distill teachers list web siglip
      distill teachers list in21k --max-parameters 30M --json
    """
    from distill.errors import as_user_errors
    from teachers import cards

    with as_user_errors():
        known = cards()
    maximum = parse_count(max_parameters) if max_parameters else float("inf")
    matching = [
        card
        for card in known
        if all(word.lower() in " ".join([card.name, card.data, card.licence, card.paper]).lower() for word in words)
        and modality in (None, card.modality)
        and card.parameters <= maximum
        and card.checked in ({"loaded"} if loaded else {checked} if checked else {card.checked})
    ]
    if as_json:
        click.echo(json.dumps([card_fields(card) for card in matching], indent=1))
        return
    if not matching:
        print("No card is like that; 'distill teachers list' lists all.", file=sys.stderr)
    for card in matching:
        size = f"{card.image_size} px" if card.modality == "image" else f"{card.context} tokens"
        click.echo(
            f"{card.name:53} {card.width:5} wide {size:>9} {card.parameters / 1e6:7.1f}M  {card.checked:13}  "
            f"{card.licence:14} {card.data} ({card.paper})"
        )


def parse_count(text: str) -> float:
    """Parse a count such as 90M, 1.2B or 5000000."""
    from distill.errors import UserError

    try:
        return float(text.rstrip("kKmMbB")) * {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1].lower(), 1)
    except ValueError as error:
        raise UserError(f"'{text}' is not a number of parameters.", "Write 90M, for example.") from error


@teachers.command()
@click.argument("name")
@click.option("--tower", type=click.Choice(["image", "text"]), help="Which tower of a pair; else that of images.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def show(name: str, tower: str | None, as_json: bool) -> None:
    """Show the card of the teacher NAME."""
    from distill.errors import as_user_errors
    from teachers import towers

    with as_user_errors():
        fields = card_fields(towers(name, tower or "")[0])
    if as_json:
        click.echo(json.dumps(fields, indent=1))
        return
    for key, value in fields.items():
        click.echo(f"{key:14} {value}")


@teachers.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a value of the recipe; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="The cache folder, for a recipe with one teacher.")
@launch_options
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def embed(recipe: str, overrides: tuple[str, ...], out: Path | None, launcher: Launcher, as_json: bool) -> None:
    """Embed RECIPE's training shards with its teachers; otherwise training does it first.

    Every image is decoded once for all teachers, and every caption of a shard embedded once by each. Each process
    embeds whole shards, and a shard's file appears when it is complete: if the command is interrupted, the same
    command continues it.

    \b
    Example:
      distill teachers embed recipe.toml --out cache/ --nproc 8
      distill train recipe.toml --set teacher.0.cache=cache/
    """
    import distill

    result = distill.embed_teachers(recipe, out, overrides=overrides, launcher=launcher)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    for folder in result["folders"]:
        click.echo(folder)


def card_fields(card: object) -> dict[str, object]:
    """A card's fields, without the functions that load it."""
    fields = dataclasses.asdict(card)  # type: ignore[call-overload]
    return {key: value for key, value in fields.items() if key not in ("file", "read", "build")}
