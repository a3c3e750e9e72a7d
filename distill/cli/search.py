"""``distill search``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("path", metavar="EXPORT", type=click.Path(path_type=Path))
@click.argument("pictures")
@click.argument("query", required=False)
@click.option(
    "--like", type=click.Path(path_type=Path), help="Search for pictures like this one, instead of by QUERY."
)
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1), help="How many pictures to list.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Draw the pictures that were found: a new PNG file.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=0), help="Loader processes.")
@click.option("--no-index", is_flag=True, help="Embed all pictures now, and keep nothing.")
@click.option("--device", help="Such as cuda or cpu; default a GPU if there is one.")
def search(
    path: Path,
    pictures: str,
    query: str | None,
    like: Path | None,
    top: int,
    sheet: Path | None,
    as_json: bool,
    workers: int,
    no_index: bool,
    device: str | None,
) -> None:
    """List the PICTURES that fit the text QUERY best, or are most like another, with their cosine similarities.

    PICTURES is a folder of pictures, a .txt list of them, shards, or a file that 'distill embed' wrote with the same
    model. The embeddings are kept in a folder beside the pictures, .NAME.distill, so that the next search embeds only
    what is new or has changed.

    \b
    Examples:
      distill search my-model photos/ "a red apple" --sheet apples.png
      distill search my-model photos/ --like photos/apple.jpg
      distill search my-model photos.safetensors "a red apple" --top 3 --json
    """
    from distill.contact_sheet import write_answers
    from distill.errors import UserError
    from distill.ship.load import load
    from distill.ship.search import Collection
    from distill.wording import counted

    if (query is None) == (like is None):
        raise UserError("Exactly one of QUERY and --like is needed.", "Give either a text or a picture.")
    if sheet is not None and sheet.exists():
        raise UserError(f"{sheet} already exists.", "Choose another --sheet.")
    model = load(path, device)
    wanted = model.encode_text(query) if query is not None else model.encode_image(str(like))
    found = Collection(model, pictures, workers, keep=not no_index)
    if found.skipped:
        name, reason = found.skipped[0]
        skipped = counted(len(found.skipped), "picture")
        click.echo(f"{skipped} could not be used; the first: {name}: {reason}", err=True)
    answers = found.best(wanted[0].numpy(), top)
    if sheet is not None:
        drawn = [found.picture(one.number) for one in answers]
        write_answers(sheet, query or f"like {like}", drawn, [one.name for one in answers])
    if as_json:
        rows = [{"name": one.name, "similarity": one.similarity} for one in answers]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for one in answers:
        click.echo(f"{one.similarity:7.3f}  {one.name}")
