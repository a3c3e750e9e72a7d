"""``distill recipe``."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distill.resolved import ResolvedRecipe


@click.group()
def recipe() -> None:
    """List the packaged recipes, explain every key of a recipe, and check one."""


@recipe.command("list")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_(as_json: bool) -> None:
    """The packaged recipes, and what each is for."""
    from distill.recipe import packaged, purpose

    found = [{"name": name, "purpose": purpose(path)} for name, path in packaged().items()]
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for one in found:
        click.echo(textwrap.fill(f"{one['name']:14} {one['purpose']}", 100, subsequent_indent=" " * 15))


@recipe.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For scripts: key, value, default and meaning of each key.")
def show(name: str, as_json: bool) -> None:
    """The recipe NAME, packaged or a file, as TOML with every key that exists and its meaning.

    Keys that the recipe does not set are commented out, with their defaults. Among them are the options of the
    objective, the text tower and the optimiser that the recipe names.

    \b
    Example:
      distill recipe show three_towers > my_recipe.toml
    """
    from distill.recipe_reference import as_toml, reference

    if not as_json:
        click.echo(as_toml(name), nl=False)
        return
    found = [
        {"key": f"{table.path}.{key.name}", "value": key.value, "default": key.default, "meaning": key.meaning}
        for table in reference(name)
        for key in table.keys
    ]
    click.echo(json.dumps(found, indent=1, ensure_ascii=False, default=str))


@recipe.command()
@click.argument("file")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a value of the recipe; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def check(file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the recipe FILE, or a packaged one, and say what it is. Data and weights are not read.

    Every key and value is checked, every name looked up, and whether they fit together; the status is 2 if not.

    \b
    Example:
      distill recipe check my_recipe.toml --set data.train=shards/
    """
    from distill.lookup import resolve
    from distill.recipe import load

    resolved = resolve(load(file, overrides))
    found = facts(resolved)
    if as_json:
        click.echo(json.dumps(found, indent=1, default=str))
        return
    objective = {**found["objective"]}
    click.echo(f"objective      {objective.pop('name')}: {in_words(objective)}")
    for number, teacher in enumerate(found["teachers"]):
        click.echo(f"teacher {number:<6} {teacher['name']}: {teacher['width']} wide, {origin(teacher)}")
    if not found["teachers"]:
        click.echo("teachers       none")
    click.echo(f"image tower    {found['image_tower']}, images of {found['image_size']} pixels a side")
    click.echo(f"text tower     {found['text_tower'] or 'none'}")
    click.echo(f"embedding      {found['width']} wide")
    click.echo(f"training       {in_words(found['training'])}")
    click.echo(f"optimiser      {found['optimizer']['name']}, lr {found['optimizer']['lr']}")
    for remark in found["remarks"]:
        click.echo(f"remark         {remark}")


def facts(resolved: ResolvedRecipe) -> dict[str, Any]:
    """What a recipe is, as the command shows it."""
    from distill.remarks import remarks

    recipe, tower, options = resolved.recipe, resolved.text, resolved.text_options
    train = recipe.train
    length = {key: value for key in ("steps", "epochs", "examples") if (value := getattr(train, key)) is not None}
    used = len(resolved.teachers)
    modes = ["not used" if k >= used else "online" if one.online else "cached" for k, one in enumerate(resolved.named)]
    folders = [one.table.cache if mode == "cached" else None for one, mode in zip(resolved.named, modes, strict=True)]
    return {
        "objective": {"name": recipe.objective.name} | resolved.objective.model_dump(),
        "teachers": [
            {"name": fact.name, "width": fact.width, "mode": mode, "cache": folder}
            for fact, mode, folder in zip(resolved.facts, modes, folders, strict=True)
        ],
        "image_tower": recipe.student.image.arch,
        "image_size": recipe.data.image_size,
        "text_tower": f"{recipe.student.text.arch}, {tower.describe(options)}" if tower and options else None,
        "width": recipe.student.width,
        "training": length | {"batch_size": train.batch_size, "precision": train.precision},
        "optimizer": {"name": recipe.optim.name, "lr": recipe.optim.lr},
        "remarks": remarks(resolved),
    }


def origin(teacher: dict[str, Any]) -> str:
    """Where a teacher's outputs come from during training."""
    if teacher["mode"] == "cached":
        return "cached beside the shards" if teacher["cache"] == "auto" else f"cached in {teacher['cache']}"
    return {"online": "computed while training", "not used": "not used by the objective"}[teacher["mode"]]


def in_words(values: dict[str, Any]) -> str:
    """Keys and values in one line."""
    return ", ".join(f"{key} {' '.join(v) if isinstance(v, tuple) else v}" for key, v in values.items())


@recipe.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def parts(as_json: bool) -> None:
    """What can be named: objectives, text towers, optimisers, launchers, formats of exports and reports, evaluations.

    Those of other installed packages are among them. Teachers have a listing of their own, 'distill teachers list'.
    """
    from distill.parts import installed_parts

    found = installed_parts()
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for kind, entries in found.items():
        click.echo(kind)
        for name, summary in entries.items():
            line = f"  {name:20} {summary}"
            click.echo(textwrap.fill(line, 100, subsequent_indent=" " * 23, break_long_words=False))
