"""``distill export``."""

from __future__ import annotations

from pathlib import Path

import click

from distill.cli.listing import ListingCommand


@click.command(cls=ListingCommand, title="Formats", names="distill.ship.export:formats")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder that does not exist yet.")
@click.option("--format", default="distill", show_default=True, help="An export format; they are listed below.")
@click.option("--best", is_flag=True, help="The best checkpoint by the metric that the recipe names, not the newest.")
def export(run: Path, out: Path, format: str, best: bool) -> None:
    """Export RUN's students at its newest checkpoint: safetensors towers, tokenizer, configuration, model card.

    \b
    Example:
      distill export runs/first --out my-model
      python -c 'import distill; print(distill.load("my-model").encode_text(["a red apple"]).shape)'
    """
    import distill

    distill.export(run, out, format, best=best)
    click.echo(f"The export is in {out}. In Python: distill.load({str(out)!r})")
