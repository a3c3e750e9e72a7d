"""The ``distill`` command: its subcommands are imported only when they are called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from distill import __version__
from distill.errors import UserError, did_you_mean

COMMANDS = {
    "demo": "The whole job on a small real data set, on this machine.",
    "recipe": "List, explain and check recipes.",
    "data": "Check, index and make shards.",
    "train": "Train a recipe.",
    "evaluate": "Evaluate a run or an export.",
    "study": "Train a recipe in variants and with several seeds, and compare them.",
    "report": "Write a report on runs.",
    "export": "Export the students of a run.",
    "embed": "Embed images or texts with an export.",
    "search": "Search pictures by a text.",
    "teachers": "List teachers and embed shards with them.",
    "students": "List architectures for image students.",
}

# Several processes would all write the same files.
FOR_ONE_PROCESS = ("demo", "data", "evaluate", "report", "export", "embed", "search", "students")


class LazyGroup(click.Group):
    """A group whose commands are in ``distill/cli/NAME.py`` and are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"distill.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            remedy = did_you_mean(args[0], COMMANDS, "distill --help lists them.")
            raise UserError(f"There is no command '{args[0]}'.", remedy)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Shell completion: eval "$(_DISTILL_COMPLETE=bash_source distill)" in ~/.bashrc (zsh, fish alike).',
)
@click.version_option(__version__, prog_name="distill")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Distil a strong pretrained image encoder into a small image-text model you can ship.

    \b
    First steps:
      distill demo                                     a complete example on real data, on this machine
      distill train three_towers --set data.train='shards/*.tar' --out runs/first
      distill export runs/first --out my-model
    """
    # click calls this function before any subcommand, but not for 'distill --help'.
    from launch.process import set_up_process

    set_up_process()
    if context.invoked_subcommand in FOR_ONE_PROCESS:
        leave_to_first(context.invoked_subcommand)


def leave_to_first(command: str) -> None:
    """Let the first of several processes that were started with a command do it, and end the others."""
    from launch.described_group import described, forget

    try:
        description = described(os.environ)
    except ValueError:
        description = None  # a command for one process needs no group
    if description is not None and description.rank > 0:
        if description.rank == 1:
            click.echo(
                f"distill {command} works in one process: of the {description.world} that {description.source} "
                "started, the first does it. Start it without that to have it done here.",
                err=True,
            )
        sys.exit(0)
    forget(os.environ)


def main() -> None:
    """Entry point: prints errors as one or two sentences; exit status 2 for errors that the user can correct."""
    # DeepSpeed's launcher adds it in front of the words of the command, and sets LOCAL_RANK as well.
    sys.argv = [word for word in sys.argv if not word.startswith(("--local_rank=", "--local-rank="))]
    debug = "--debug" in sys.argv[1:]
    try:
        cli.main(args=[a for a in sys.argv[1:] if a != "--debug"], standalone_mode=False)
    except UserError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        reason = interrupt.__cause__ if isinstance(interrupt, click.Abort) else interrupt
        click.echo(str(reason or "") or "Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The process that reads the output has ended (``distill teachers list | head``), which is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        # No space, no permission, no such folder: the system's message is clear enough.
        click.echo(f"Error: {error.strerror or error}: {error.filename or 'a file'}", err=True)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        click.echo(f"Error: {type(error).__name__}: {error}", err=True)
        click.echo("This looks like a bug in distill. Run again with --debug and report the output.", err=True)
        sys.exit(1)
