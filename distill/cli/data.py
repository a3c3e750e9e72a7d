"""``distill data``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click


@click.group()
def data() -> None:
    """Check, index and make shards."""


@data.command()
@click.argument("shards", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def index(shards: tuple[str, ...], as_json: bool) -> None:
    """Index SHARDS ahead of time; otherwise training does it first.

    An index holds the position of each sample. It is written beside its shard, or to ~/.cache/distill if that folder
    is read-only.

    \b
    Example:
      distill data index 'shards/train-{000000..000099}.tar'
    """
    from distill.data.index import index_paths
    from distill.data.indexes import read_index
    from distill.data.shard_names import shard_paths
    from distill.errors import UserError
    from distill.progress import progress_bar

    paths = shard_paths(shards)
    progress, rows = progress_bar("indexing", len(paths), "shards"), list[dict[str, Any]]()
    listed = list[str]()
    for path in paths:
        shard_index = read_index(path)
        written = next((str(place) for place in index_paths(path) if place.is_file()), "")
        faults = [list(fault) for fault in shard_index.faults]
        rows.append({"shard": str(path), "samples": len(shard_index), "index": written, "faults": faults})
        rows[-1]["leftovers"] = [asdict(one) for one in shard_index.leftovers]
        listed.append("".join(f"  {key} {reason}" for key, reason in shard_index.faults))
        listed[-1] += "".join(f"  {one}" for one in shard_index.leftovers)
        progress.update(1)
    progress.close()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row, notes in zip(rows, listed, strict=True):
            click.echo(f"{row['samples']:9}  {row['shard']}{notes}")
    if not any(row["samples"] for row in rows):
        raise UserError("None of the shards holds a sample.", "What each of them holds instead is listed above.")


@data.command()
@click.argument("shards", nargs=-1, required=True)
@click.option("--against", multiple=True, help="Evaluation shards, to find images that are in both; repeatable.")
@click.option("--caption-key", "keys", multiple=True, help="Keys of KEY.json that hold captions; repeatable.")
@click.option("--processes", default=0, type=click.IntRange(min=0), help="Reader processes; 0 reads in this one.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def check(
    shards: tuple[str, ...], against: tuple[str, ...], keys: tuple[str, ...], processes: int, as_json: bool
) -> None:
    """Read every sample of SHARDS once and report their content and their faults.

    Shards that --against names too are left out of SHARDS. The exit status is 1 if samples cannot be used, or images
    or captions belong to no sample.

    \b
    Example:
      distill data check shards/ --against 'shards/test-*.tar' --processes 8
    """
    from distill.data.captions import Captions
    from distill.data.check import Findings, format_report, inspect, report
    from distill.data.overlap import listed, without
    from distill.data.shards import Shards
    from distill.progress import progress_bar

    captions = Captions(keys) if keys else Captions()

    def read(specs: Sequence[str], label: str, quiet: bool) -> tuple[Shards, Findings]:
        opened = Shards.open(specs, strict=False, quiet=quiet)
        progress = progress_bar(label, len(opened), "samples")
        findings = inspect(opened, captions, processes, progress.update)
        progress.close()
        return opened, findings

    own, both = without(shards, against)
    if both:
        click.echo(f"Left out, because --against names them: {listed(both)}.", err=True)
    opened, findings = read(own, "reading", quiet=True)  # the report lists its leftovers
    other = read(against, "reading the evaluation shards", quiet=False)[1] if against else None
    result = report(findings, opened, other) | {"left_out": [str(path) for path in both]}
    click.echo(json.dumps(result, indent=1, ensure_ascii=False) if as_json else format_report(result))
    if not result["usable"]:
        sys.exit(1)


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder for the shards.")
@click.option("--root", type=click.Path(path_type=Path), help="The folder to which a table's paths are relative.")
@click.option("--image", default="", help="A table's column with files; default image, filepath, path or similar.")
@click.option("--caption", "captions", multiple=True, help="A table's column with captions; repeatable.")
@click.option("--keep", multiple=True, help="A table's column for the samples' JSON; repeatable.")
@click.option("--separator", default="", help="Between a table's columns: one character, or tab; default: recognised.")
@click.option(
    "--template", default="", help="The caption of each class; default 'a photo of a {}' ('an' before a vowel)."
)
@click.option(
    "--test-percent", type=click.IntRange(0, 99), help="Percentage for test-*.tar; default: the source's own splits."
)
@click.option(
    "--split-by",
    default="file",
    show_default=True,
    type=click.Choice(["file", "content"]),
    help="What --test-percent keeps on one side: equal files, or also pictures that look alike.",
)
@click.option("--drop-duplicates", is_flag=True, help="Leave out what looks like another picture of SOURCE.")
@click.option(
    "--dedup-against", multiple=True, help="Leave out near-duplicates of images in these shards; repeatable."
)
@click.option("--per-shard", default=1000, show_default=True, type=click.IntRange(min=1), help="Samples per shard.")
def pack(source: Path, out: Path, **options: Any) -> None:
    """Make shards of SOURCE, which is one of:

    \b
      a table with a header (comma, tab, semicolon or |), JSON Lines, a JSON list, Parquet (with pyarrow)
      COCO captions (images and annotations in one JSON file); --root names the pictures' folder
      a folder of pictures with NAME.txt beside NAME.jpg, or with metadata.csv or metadata.jsonl
      a folder with one folder a class; also below train, val and test, a split each
      shards: one, a folder, or a pattern in quotation marks

    Several rows of one picture become one sample with several captions. Samples are written in a hashed order, which
    mixes classes; the same source gives the same shards. If the command is interrupted, the same command continues it.
    What was left out is listed in left-out.jsonl with the reason; if nothing is left, the status is 2.

    \b
    Examples:
      distill data pack photos.csv --out shards/ --image path --caption title --test-percent 5 --split-by content
      distill data pack pictures/ --out shards/ --template 'a drawing of a {}'
      distill data pack captions_train2017.json --root train2017/ --out shards/
      distill data pack 'old/*.tar' --out clean/ --drop-duplicates --dedup-against 'eval/*.tar'
    """
    import distill

    for path in distill.pack(source, out, **options):
        click.echo(str(path))


@data.command()
@click.argument("words", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def sets(words: tuple[str, ...], as_json: bool) -> None:
    """List public evaluation sets, those of Three Towers' tables; with WORDS, those with all of them in their card.

    Each is downloaded by hand, from where the card says, and evaluated on by its folder.

    \b
    Examples:
      distill data sets
      distill data sets zero-shot cc --json
    """
    import dataclasses
    import json

    from distill.evals.sets import SETS

    cards = [dataclasses.asdict(card) | {"address": card.address} for card in SETS]
    shown = [card for card in cards if all(word.lower() in json.dumps(card).lower() for word in words)]
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    for card in shown:
        size = f"{card['images']:,} images" + (f", {card['classes']} classes" if card["classes"] else " with captions")
        click.echo(f"{card['name']:12} {size}; {', '.join(card['use'])}; {card['terms']}; {card['paper']}")
        click.echo(f"{'':12} {card['address']}")
