"""``distill teachers``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click


@click.group()
def teachers() -> None:
    """List teachers, and embed shards with them ahead of training."""


@teachers.command("list")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_(as_json: bool) -> None:
    """Every teacher that has a card; besides these, timm/ARCH is any pretrained timm model."""
    from teachers import cards

    if as_json:
        click.echo(json.dumps([facts(card) for card in cards()], indent=1))
        return
    for card in cards():
        takes = f"{card.image_size} px" if card.modality == "image" else f"{card.context} tokens"
        click.echo(f"{card.name:32} {card.width:5} wide  {takes:>10}  {card.licence:12} {card.data}")


@teachers.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def show(name: str, as_json: bool) -> None:
    """What is known of the teacher NAME."""
    from distill.errors import from_leaves
    from teachers import card

    with from_leaves():
        found = facts(card(name))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        click.echo(f"{key:14} {value}")


@teachers.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a value of the recipe; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="The cache folder, for a recipe with one teacher.")
def embed(recipe: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Embed RECIPE's training shards with its teachers, as training would do first.

    \b
    Example:
      distill teachers embed recipe.toml --out cache/
      distill train recipe.toml --set teacher.0.cache=cache/
    """
    from distill.data.shards import Shards
    from distill.errors import UserError
    from distill.recipe import load
    from distill.train import prepare, setup

    if out is not None:
        overrides += (f"teacher.0.cache={json.dumps(str(out.absolute()))}",)
    checked = load(recipe, overrides)
    if out is not None and len(checked.teacher) != 1:
        raise UserError("--out is for a recipe with one teacher.", "Set teacher.N.cache of each in the recipe.")
    shards = Shards.of(checked.data.train)
    caches = setup.caches_of(checked)
    prepare.make_caches(caches, shards, checked.data.workers)
    for folder in sorted({str(cache.folder(index.path)) for cache in caches for index in shards.indexes}):
        click.echo(folder)


def facts(card: object) -> dict[str, object]:
    """A card's fields, without the function that loads it."""
    found = dataclasses.asdict(card)  # type: ignore[call-overload]
    found.pop("weights")
    return dict(found)
