"""``distill embed``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("path", metavar="EXPORT", type=click.Path(path_type=Path))
@click.option("--images", multiple=True, help="A folder of pictures, a picture, a .txt list, or shards; repeatable.")
@click.option(
    "--texts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A UTF-8 file with one text per line; row i is line i.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A new .safetensors, .npy or .parquet file."
)
@click.option("--strict", is_flag=True, help="Stop at the first picture that cannot be used, instead of skipping it.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=0), help="Loader processes.")
@click.option("--device", help="Such as cuda or cpu; default a GPU if there is one.")
def embed(
    path: Path,
    images: tuple[str, ...],
    texts: Path | None,
    out: Path,
    strict: bool,
    workers: int,
    device: str | None,
) -> None:
    """Embed images or texts: n unit rows of D numbers, with a name each.

    The suffix of --out decides the format: .safetensors with the tensor "embeddings" and "names" as a JSON list in the
    metadata; .npy with the names in NAME.names.json beside it; .parquet with the columns "name" and "embedding".
    Pictures that cannot be used are skipped, and listed in OUT.skipped.jsonl with the reason. If the command is
    interrupted, the same command goes on from what is kept in .OUT.unfinished beside it.

    \b
    Examples:
      distill embed my-model --images photos/ --out photos.safetensors
      distill embed my-model --images 'shards/{000..009}.tar' --out shards.npy
      distill embed my-model --texts queries.txt --out queries.parquet
    """
    from distill.errors import UserError
    from distill.ship import embedding_files
    from distill.ship.embed import embed_pictures, embed_texts
    from distill.ship.load import load
    from distill.ship.picture_index import PictureIndex
    from distill.ship.pictures import find_pictures
    from distill.wording import counted

    if bool(images) == (texts is not None):
        raise UserError("Exactly one of --images and --texts is needed.", "Give either --images or --texts.")
    embedding_files.check(out)
    model = load(path, device)
    unfinished = out.with_name(f".{out.name}.unfinished")
    if texts is not None:
        found = embed_texts(model, texts)
    else:
        index = PictureIndex(unfinished, model.identity(), model.config.width)
        found = embed_pictures(model, find_pictures(images, strict), strict, workers, index)
    embedding_files.write(out, found.rows.numpy(), found.names, found.skipped)
    unfinished.unlink(missing_ok=True)
    for name, reason in found.skipped[:3]:
        click.echo(f"Skipped: {name}: {reason}", err=True)
    if found.skipped:
        skipped = counted(len(found.skipped), "picture")
        click.echo(f"{skipped} could not be used; see {embedding_files.skipped_file(out)}", err=True)
    if empty := sum(not name.strip() for name in found.names):
        click.echo(f"{counted(empty, 'line')} without text among them.", err=True)
    click.echo(f"{counted(len(found.rows), 'embedding')} of width {found.rows.shape[1]} are in {out}.")
