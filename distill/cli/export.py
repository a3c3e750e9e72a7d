"""``distill export``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder that does not exist yet.")
def export(run: Path, out: Path) -> None:
    """Write RUN's students as of its newest checkpoint: two safetensors towers, tokenizer, config, model card.

    \b
    Example:
      distill export runs/first --out my-model
      python -c 'import distill; print(distill.load("my-model").encode_text(["a red apple"]).shape)'
    """
    from distill.ship.export import export as write

    write(run, out)
    click.echo(f"The export is in {out}. In Python: distill.load({str(out)!r})")
