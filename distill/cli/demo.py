"""``distill demo``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--out", default="distill-demo", show_default=True, type=click.Path(path_type=Path), help="A new folder."
)
@click.option("--seed", default=0, show_default=True, help="The seed of the three trainings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the demo's recipe; repeatable.")
@click.option("--limit", type=click.IntRange(min=16), help="Use at most so many training and so many test emoji.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON; progress goes to standard error.")
def demo(out: Path, seed: int, overrides: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """Run the whole pipeline on a small real data set, on this machine, without a network.

    OpenMoji's pictures, their names in 14 languages, and a pretrained EfficientNet-Lite0 as teacher: packs the
    shards, embeds them, trains 3T students that start from half of the teacher's weights, the same students from
    scratch, and LiT; measures all three on unseen emoji, and on trained ones by names that were held back; draws a
    contact sheet, exports the 3T students and writes a report. Eight to twelve minutes on two CPU cores.

    \b
    Examples:
      distill demo
      distill demo --out /tmp/demo --seed 1 --set train.epochs=24
    """
    import json
    import shlex

    from distill.demo.run import Demo
    from distill.demo.table import table

    def print_line(line: str) -> None:
        click.echo(line, err=as_json)

    result = Demo(out, print_line, seed, overrides, limit).run()
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    minutes = sum(result["seconds"].values()) / 60
    click.echo(f"\n{table(result)}\n")
    click.echo(f"{'report':15}{out / 'report.html'}   (open it in a browser)")
    click.echo(f"{'export':15}{out / 'export'}   (in Python: distill.load({str(out / 'export')!r}))")
    click.echo(f"{'contact sheet':15}{out / 'contact-sheet.png'}")
    click.echo(f"{'numbers':15}{out / 'results.json'}")
    click.echo(f"{'runs, recipes':15}{out / 'runs'}, {out / 'recipes'}   ({minutes:.0f} minutes in all)")
    recipe, run = (shlex.quote(str(out / part)) for part in ("recipes/three_towers.toml", "runs/longer"))
    click.echo(f"\nTry next:\n  distill train {recipe} --set train.epochs=24 --out {run}")
