"""``distill export``."""

from __future__ import annotations

from pathlib import Path

import click


class ListsFormats(click.Command):
    """A command whose help lists the export formats that exist."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from distill.ship.export import formats

        formatter.write_paragraph()
        formatter.write_text(f"Formats: {', '.join(formats())}.")


@click.command(cls=ListsFormats)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder that does not exist yet.")
@click.option("--format", default="distill", show_default=True, help="An export format; they are listed below.")
def export(run: Path, out: Path, format: str) -> None:
    """Export RUN's students at its newest checkpoint: safetensors towers, tokenizer, configuration, model card.

    \b
    Example:
      distill export runs/first --out my-model
      python -c 'import distill; print(distill.load("my-model").encode_text(["a red apple"]).shape)'
    """
    import distill

    distill.export(run, out, format)
    click.echo(f"The export is in {out}. In Python: distill.load({str(out)!r})")
