"""``distill study``."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distill.cli.launch_options import launch_options
from distill.cli.listing import ListingCommand
from distill.cli.train import STOPPED

if TYPE_CHECKING:
    from launch.launcher import Launcher

FAILED = 1


@click.command(cls=ListingCommand, title="Packaged grids", names="distill.studies.settings:packaged_grids")
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="The study's folder; default studies/RECIPE.")
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds a variant; default what the grid says, or 3.")
@click.option("--axis", "axes", multiple=True, metavar="KEY=V1,V2", help="A variant for each value; repeatable.")
@click.option("--product", is_flag=True, help="A variant for each combination of the axes' values.")
@click.option(
    "--variant", "variants", multiple=True, metavar="'NAME: KEY=VALUE; …'", help="A named variant; repeatable."
)
@click.option("--grid", metavar="FILE|NAME", help="A TOML file with variants, or a packaged grid.")
@click.option("--reference", default="", metavar="NAME", help="The variant to compare with; default RECIPE itself.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a value of all variants.")
@click.option("--limit-variants", "only", multiple=True, metavar="NAME", help="Make only this one's runs; repeatable.")
@click.option("--task", "tasks", multiple=True, help="What to measure; repeatable. Default: all that is possible.")
@click.option("--data", multiple=True, help="What to measure on; repeatable. Default: the recipe's data.eval.")
@click.option(
    "--option", "options", multiple=True, metavar="[TASK.]KEY=VALUE", help="Set an option of a task; repeatable."
)
@click.option("--metric", "metrics", multiple=True, help="Print only this metric; repeatable. The files have all.")
@click.option("--best", is_flag=True, help="Measure the best checkpoint by the metric that the recipe names.")
@click.option("--skip-bad", is_flag=True, help="When measuring, leave out samples that cannot be used.")
@click.option("--device", help="To measure on, such as cuda or cpu; default a GPU if there is one.")
@click.option("--keep-checkpoints", is_flag=True, help="Keep more than the last checkpoint of complete runs.")
@click.option("--dry-run", is_flag=True, help="Say which variants, steps and runs there are, and do nothing.")
@launch_options
@click.option("--allow-pipe", is_flag=True, help="Let recipes run the shell commands of their pipe: streams.")
def study(
    recipe: str,
    out: Path | None,
    axes: tuple[str, ...],
    variants: tuple[str, ...],
    data: tuple[str, ...],
    options: tuple[str, ...],
    metrics: tuple[str, ...],
    dry_run: bool,
    launcher: Launcher,
    **others: Any,
) -> None:
    """Train RECIPE in variants and with several seeds, evaluate each run, and compare the variants.

    The table has a row for each variant: mean, standard deviation and two standard errors of the difference to the
    reference, paired by seed. It is in study.md and study.json of the study's folder, and the runs are in runs/ there.
    The same command goes on after an interruption, tries failed runs again, and with more seeds or variants does only
    what is new.

    \b
    Exit status:
      0    all is done
      1    some runs have failed; the others are in the tables
      2    something must be put right; the message says what
      75   stopped and saved; the same command goes on
      130  interrupted without saving

    \b
    Examples:
      distill study recipe.toml --axis objective.weight=0.5,2 --seeds 5 --task retrieval
      distill study recipe.toml --variant 'no heads: objective.heads=none' --variant 'MLP: objective.adapter=mlp'
      distill study recipe.toml --axis optim.lr=1e-3,2e-3 --axis train.batch_size=128,256 --product
      distill study tiny --grid three_towers --set data.train=a/train-*.tar --set data.eval=a/test-*.tar --dry-run
    """
    import distill
    from distill.cli.evaluate import tree_of
    from distill.studies.settings import axes_from, variants_from
    from distill.studies.table import as_text

    tree = tree_of(options, {"data": data, **dict.fromkeys(("train", "languages", "label", "classes", "templates"))})
    given = {"axes": axes_from(axes), "variants": variants_from(variants), "options": tree, **others}
    if dry_run:
        say_plan(recipe, out, given)
        return
    found = distill.study(recipe, out, launcher=launcher, say=lambda line: click.echo(line, err=True), **given)
    click.echo(as_text(found.summary, metrics))
    click.echo(f"\nThe tables are in {found.out / 'study.md'}, all numbers in {found.out / 'study.json'}.")
    if not found.complete:
        click.echo("Stopped before its end. It goes on with the same command:")
        click.echo(f"  {shlex.join(['distill', *sys.argv[1:]])}")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is saved: a second request has nothing left to stop
        sys.exit(STOPPED)
    if found.failed:
        sys.exit(FAILED)


def say_plan(recipe: str, out: Path | None, given: dict[str, Any]) -> None:
    """Print which variants, steps and runs a study has."""
    from distill.evals.tables import aligned
    from distill.studies.public import open_study

    source = {key: given[key] for key in ("grid", "axes", "product", "reference")} | {"named": given["variants"]}
    measured = {key: given[key] for key in ("tasks", "options", "device", "skip_bad", "best")}
    runs, chosen = open_study(
        recipe, out, given["overrides"], given["seeds"], given["only"], source, measured, click.echo
    )
    click.echo(aligned(runs.plan(chosen)))
