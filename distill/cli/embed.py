"""``distill embed``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("path", metavar="EXPORT", type=click.Path(path_type=Path))
@click.option("--images", help="A folder of images, or shards.")
@click.option(
    "--texts", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A file with one text per line."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A .safetensors file that does not exist yet."
)
@click.option("--device", help="Such as cuda or cpu; default a GPU if there is one.")
def embed(path: Path, images: str | None, texts: Path | None, out: Path, device: str | None) -> None:
    """Embed images or texts: "embeddings" [n, D], unit rows; "names" in the metadata is a JSON list of what they are.

    \b
    Examples:
      distill embed my-model --images photos/ --out photos.safetensors
      distill embed my-model --images 'shards/{000..009}.tar' --out shards.safetensors
      distill embed my-model --texts queries.txt --out queries.safetensors
    """
    from safetensors.torch import save_file

    from distill.data.shards import Shards
    from distill.errors import UserError
    from distill.files import write_whole
    from distill.ship.embed import embed_folder, embed_images, embed_texts
    from distill.ship.load import load

    if (images is None) == (texts is None):
        raise UserError("Exactly one of --images and --texts is needed.", "Give either --images or --texts.")
    if out.exists():
        raise UserError(f"{out} already exists.", "Choose another --out.")
    model = load(path, device)
    if texts is not None:
        rows, names = embed_texts(model, texts)
    elif Path(str(images)).is_dir() and not any(Path(str(images)).glob("*.tar")):
        rows, names = embed_folder(model, Path(str(images)))
    else:
        shards = Shards.open([str(images)])
        rows, names = embed_images(model, shards), [shards.key(i) for i in range(len(shards))]
    metadata = {"names": json.dumps(names, ensure_ascii=False)}
    write_whole(out, lambda to: save_file({"embeddings": rows.contiguous()}, to, metadata=metadata))
    click.echo(f"{len(rows)} embeddings of width {rows.shape[1]} are in {out}.")
