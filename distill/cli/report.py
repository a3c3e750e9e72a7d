"""``distill report``."""

from __future__ import annotations

from pathlib import Path

import click

from distill.cli.listing import ListingCommand


@click.command(cls=ListingCommand, title="Formats", names="distill.reporting.write:formats")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="A new file; default report.FORMAT in the run's folder.")
@click.option("--format", default="html", show_default=True, help="A file format; they are listed below.")
@click.option("--data", multiple=True, help="Shards to evaluate on; repeatable. Default: each recipe's data.eval.")
@click.option("--device", help="Such as cuda or cpu; default a GPU if there is one.")
def report(runs: tuple[Path, ...], out: Path | None, format: str, data: tuple[str, ...], device: str | None) -> None:
    """Write the report on a RUN, or the comparison of several, as one file that needs no network.

    It holds results and chance, size and speed of students and teacher, queries with what the students find for them,
    training curves, the training data and what could not be used of them, recipe and versions, and what to try next.
    It names no folder, host or user.

    \b
    Examples:
      distill report runs/first
      distill report runs/first runs/second --out comparison.html
      distill report runs/first --format md --data 'shards/val-*.tar' --out first.md
    """
    import distill

    path = distill.report(runs, out, format, data=data, device=device, say=lambda line: click.echo(line, err=True))
    click.echo(f"The report is in {path}.")
