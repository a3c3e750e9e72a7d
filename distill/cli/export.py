"""``distill export``."""

from __future__ import annotations

from pathlib import Path

import click

from distill.cli.listing import ListingCommand


@click.command(cls=ListingCommand, title="Formats", names="distill.ship.export:formats")
@click.argument("run", metavar="RUN|EXPORT", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder that does not exist yet.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=("distill",),
    show_default=True,
    help="An export format, listed below; repeatable: then each is written to OUT/FORMAT.",
)
@click.option(
    "--dtype", default="fp32", show_default=True, help="How weights are stored: fp32, fp16 or bf16; computed in fp32."
)
@click.option("--int8", is_flag=True, help="8-bit integers, for onnx.")
@click.option(
    "--calibrate", multiple=True, metavar="SHARDS", help="Pictures for --int8; default: what the run was trained on."
)
@click.option(
    "--eval", "data", multiple=True, metavar="SHARDS", help="Measure the trained model and each format on these."
)
@click.option(
    "--metrics",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Results that distill evaluate --json wrote, for the model card; repeatable.",
)
@click.option("--license", "licence", default="other", help="Of the model, for the model card, such as apache-2.0.")
@click.option("--best", is_flag=True, help="The best checkpoint by the metric that the recipe names, not the newest.")
def export(
    run: Path,
    out: Path,
    formats: tuple[str, ...],
    dtype: str,
    int8: bool,
    calibrate: tuple[str, ...],
    data: tuple[str, ...],
    metrics: tuple[Path, ...],
    licence: str,
    best: bool,
) -> None:
    """Export a run's students at its newest checkpoint, or convert an export, for other libraries.

    What is written is opened again by the library that it is for, and compared with the students.

    \b
    Examples:
      distill export runs/first --out my-model
      distill export runs/first --out for-phones --format onnx --int8
      distill export my-model --out everywhere --format timm --format torch --dtype fp16 --eval 'shards/test-*.tar'
      python -c 'import distill; print(distill.load("my-model").encode_text(["a red apple"]).shape)'
    """
    from distill.evals.exports import write_exports
    from distill.ship.written import as_text

    written = write_exports(
        run,
        out,
        formats,
        best=best,
        dtype=dtype,
        int8=int8,
        calibrate=calibrate,
        data=data,
        metrics=metrics,
        licence=licence,
    )
    click.echo(as_text(written))
    click.echo(f"The export is in {out}; its README.md says how it is opened.")
    if "distill" in formats:
        folder = next(one.folder for one in written if one.format == "distill")
        click.echo(f"In Python: distill.load({str(folder)!r})")
