"""``distill train``."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill.cli.launch_options import launch_options
from distill.cli.listing import ListingCommand

if TYPE_CHECKING:
    from launch.launcher import Launcher

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: what was asked for is not done yet, and the same command can do it later


@click.command(cls=ListingCommand, title="Packaged recipes", names="distill.recipe:packaged")
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; default runs/RECIPE.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a value of the recipe; repeatable.")
@launch_options
@click.option("--resume", is_flag=True, help="Continue the run in --out from its newest checkpoint.")
@click.option("--extend", is_flag=True, help="With --resume: let train.steps, epochs or examples change.")
@click.option("--init", type=click.Path(path_type=Path), help="Start from the students of this run or export.")
@click.option("--allow-pipe", is_flag=True, help="Let the recipe run the shell commands of its pipe: streams.")
def train(
    recipe: str,
    out: Path | None,
    overrides: tuple[str, ...],
    launcher: Launcher,
    resume: bool,
    extend: bool,
    init: Path | None,
    allow_pipe: bool,
) -> None:
    """Train RECIPE: a TOML file, or the name of a packaged recipe.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save a checkpoint and stop; a second Ctrl-C stops at once. With --resume a run
    goes on, also with other folders of caches, moved shards, another data.eval, train.micro_batch, zero.stage or
    number of processes; with --extend also with another length: from there on the learning rate is the one that a run
    of the new length has at that step.

    \b
    Exit status:
      0    the training is complete
      2    something must be put right; the message says what
      75   stopped and saved; --resume goes on (what a scheduler requeues)
      130  interrupted without saving

    \b
    Examples:
      distill train recipe.toml --out runs/first
      distill train three_towers --set data.train=shards/ --set train.epochs=10 --nproc 8
      distill train recipe.toml --out runs/first --resume
      distill train recipe.toml --out /shared/runs/first --hostfile hosts
      srun -n 16 distill train recipe.toml --out /shared/runs/first
      torchrun --nproc-per-node 8 --no-python distill train recipe.toml --out runs/first
    """
    import distill

    training = distill.train(
        recipe,
        out,
        overrides=overrides,
        resume=resume,
        extend=extend,
        init=init,
        launcher=launcher,
        allow_pipe=allow_pipe,
    )
    run = training.run
    if training.complete:
        click.echo(f"The run is in {run}. Next: distill report {run}; distill export {run} --out {run.name}-export")
    else:
        command = ["distill", *(word for word in sys.argv[1:] if word not in ("--resume", "--extend"))]
        click.echo(f"Stopped as requested; {run} has a checkpoint of all steps. It goes on with:")
        click.echo(f"  {shlex.join([*command, '--resume'])}")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is saved: a second request has nothing left to stop
        sys.exit(STOPPED)
