"""``distill train``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; default runs/RECIPE.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a value of the recipe; repeatable.")
@click.option("--nproc", default=1, show_default=True, type=click.IntRange(min=1), help="Processes on this machine.")
@click.option("--hostfile", type=click.Path(path_type=Path), help="Several machines: lines of 'HOST slots=N'.")
@click.option("--master-addr", default="", help="Address of the first host, if DeepSpeed is not to ask it.")
@click.option("--resume", is_flag=True, help="Continue the run in --out from its newest checkpoint.")
@click.option("--allow-pipe", is_flag=True, help="Let the recipe run the shell commands of its pipe: streams.")
def train(
    recipe: str,
    out: Path | None,
    overrides: tuple[str, ...],
    nproc: int,
    hostfile: Path | None,
    master_addr: str,
    resume: bool,
    allow_pipe: bool,
) -> None:
    """Train RECIPE: a TOML file, or one of three_towers, scratch, lit, l2.

    \b
    Examples:
      distill train recipe.toml --out runs/first
      distill train three_towers --set data.train=shards/ --set train.epochs=10 --nproc 8
      distill train recipe.toml --out runs/first --resume
      distill train recipe.toml --out /shared/runs/first --hostfile hosts
    """
    from distill.recipe import load
    from distill.train.start import start

    out = out or Path("runs") / Path(recipe).stem
    complete = start(
        load(recipe, overrides),
        out,
        resume=resume,
        nproc=nproc,
        hostfile=hostfile,
        master_addr=master_addr,
        allow_pipe=allow_pipe,
    )
    if complete:
        click.echo(f"The run is in {out}. Next: distill export {out} --out {out.name}-export")
    else:
        click.echo(f"Stopped as asked; {out} has all that was learned. Go on with --resume --out {out}")
