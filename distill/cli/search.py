"""``distill search``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("path", metavar="EXPORT", type=click.Path(path_type=Path))
@click.argument("pictures")
@click.argument("query")
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1), help="How many pictures to list.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--device", help="Such as cuda or cpu; default a GPU if there is one.")
def search(path: Path, pictures: str, query: str, top: int, as_json: bool, device: str | None) -> None:
    """List the PICTURES that fit the text QUERY best, with their cosine similarities.

    PICTURES is a folder of pictures, a .txt list of them, shards, or a file that 'distill embed' wrote with the same
    model, which saves embedding them for each search.

    \b
    Examples:
      distill search my-model photos/ "a red apple"
      distill search my-model photos.safetensors "a red apple" --top 3 --json
    """
    from distill.ship.load import load
    from distill.ship.search import best, collection
    from distill.wording import counted

    model = load(path, device)
    model.check_text()
    found = collection(model, pictures)
    if found.skipped:
        name, reason = found.skipped[0]
        skipped = counted(len(found.skipped), "picture")
        click.echo(f"{skipped} could not be used; the first: {name}: {reason}", err=True)
    rows = best(model, found, query, top)
    if as_json:
        click.echo(json.dumps([{"name": n, "similarity": s} for n, s in rows], indent=1, ensure_ascii=False))
        return
    for name, similarity in rows:
        click.echo(f"{similarity:7.3f}  {name}")
