"""``distill train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill.cli.launch_options import launch_options
from distill.cli.listing import ListingCommand

if TYPE_CHECKING:
    from launch.launcher import Launcher


@click.command(cls=ListingCommand, title="Packaged recipes", names="distill.recipe:packaged")
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; default runs/RECIPE.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a value of the recipe; repeatable.")
@launch_options
@click.option("--resume", is_flag=True, help="Continue the run in --out from its newest checkpoint.")
@click.option("--allow-pipe", is_flag=True, help="Let the recipe run the shell commands of its pipe: streams.")
def train(
    recipe: str,
    out: Path | None,
    overrides: tuple[str, ...],
    launcher: Launcher,
    resume: bool,
    allow_pipe: bool,
) -> None:
    """Train RECIPE: a TOML file, or the name of a packaged recipe.

    \b
    Examples:
      distill train recipe.toml --out runs/first
      distill train three_towers --set data.train=shards/ --set train.epochs=10 --nproc 8
      distill train recipe.toml --out runs/first --resume
      distill train recipe.toml --out /shared/runs/first --hostfile hosts
    """
    import distill

    training = distill.train(recipe, out, overrides=overrides, resume=resume, launcher=launcher, allow_pipe=allow_pipe)
    run = training.run
    if training.complete:
        click.echo(f"The run is in {run}. Next: distill export {run} --out {run.name}-export")
    else:
        click.echo(f"Stopped as requested; {run} has a checkpoint of all steps. Continue with --resume --out {run}")
