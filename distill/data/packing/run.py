"""From a source to shards."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill.data import images
from distill.data.packing.choice import Choice, Settings
from distill.data.packing.folders import DESCRIPTION_FILE
from distill.data.packing.left_out import LeftOut
from distill.data.packing.row import NO_CAPTION, Row
from distill.data.packing.samples import Samples
from distill.data.packing.shard_writer import ShardWriter
from distill.data.packing.source import Options, Source, open_source, say
from distill.data.shards import Shards
from distill.errors import BadSample, UserError
from distill.files import nearest_folder, write_text
from distill.progress import progress_bar
from distill.wording import counted

LEFT_OUT_FILE = "left-out.jsonl"  # beside the shards: what was left out


def pack_source(path: Path, out: Path, options: Options, settings: Settings) -> list[Path]:
    """Make shards; see :func:`distill.pack`."""
    check_folder(out)
    if path.is_dir() and path.resolve() in out.resolve().parents[1:]:
        raise UserError(f"{out} lies in a folder of {path}, which is packed.", "Choose an --out elsewhere.")
    against = Shards.open(settings.dedup_against, strict=False) if settings.dedup_against else None
    folder = nearest_folder(out)
    try:
        with (
            closing(open_source(path, options)) as source,
            closing(Samples(folder)) as samples,
            closing(LeftOut(folder)) as left_out,
        ):
            own_splits = read_rows(source, samples, left_out)
            if own_splits and settings.test_percent is not None:
                say(
                    f"the splits of {path} ({', '.join(sorted(own_splits))}) are not kept: --test-percent makes others"
                )
            return write(source, samples, left_out, out, settings, against)
    except UnicodeError as error:
        raise UserError(f"{path} cannot be read: {error}.", "Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(
            f"{error.filename or out} cannot be read or written: {error.strerror or error}.",
            "Put that right; the same command goes on with what it has not written yet.",
        ) from error


def check_folder(out: Path) -> None:
    """Raise a ``UserError`` if the folder holds something else than shards that were packed."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is no folder.", "Choose another --out.")
    if out.is_dir() and not (out / DESCRIPTION_FILE).is_file() and any(out.iterdir()):
        raise UserError(f"{out} exists and is no empty folder.", "Choose another --out.")


def read_rows(source: Source, samples: Samples, left_out: LeftOut) -> set[str]:
    """Read all rows, those that can be used into ``samples``.

    Returns:
        The names of the source's splits.
    """
    number, splits = 0, set[str]()
    for number, row in enumerate(source.rows(), 1):
        row = replace(row, number=number)
        problem = row.problem or ("" if row.captions else NO_CAPTION)
        if problem:
            samples.leave_out(row)
            left_out.add(row, problem)
            continue
        splits.add(row.split)
        samples.add(row, source.stamp(row))
    if not number:
        raise UserError(f"{source.path} has no rows.", "Give a source with some.")
    samples.arrange()
    say(f"{source.path}, {source.noun}: {counted(number, 'row')}, {counted(len(samples), 'picture')}")
    return splits - {""}


def write(
    source: Source, samples: Samples, left_out: LeftOut, out: Path, settings: Settings, against: Shards | None
) -> list[Path]:
    """Write the shards, or those that are still missing, and the list of what was left out.

    Args:
        against: with pictures; what looks like one of them is left out.
    """
    described = description(source, samples, settings, against)
    check_same(out, described)

    def read(row: Row) -> bytes:
        return samples.kept_data(row) if row.kept >= 0 else source.image(row)

    def sample(i: int) -> dict[str, Any]:
        rows = samples.rows(i)
        try:
            data = read(rows[0])
            return source.sample(rows, data, images.extension_of(data))
        except (BadSample, OSError, ValueError) as error:
            raise UserError(f"{rows[0].name} has changed while it was packed: {error}.", "Pack again.") from error

    writer = ShardWriter(out, settings.per_shard, sample)
    progress = progress_bar("packing", len(samples), "pictures")
    written, captions = 0, 0
    for i, stem, reason in Choice(samples, read, settings, against).stems(progress.update):
        if reason:
            for row in samples.rows(i):
                left_out.add(row, reason)
            continue
        if not written:
            write_text(out / DESCRIPTION_FILE, described)
        written, captions = written + 1, captions + samples.count(i)
        writer.add(stem, i)
    progress.close()
    if not written:
        raise UserError(f"Nothing of {source.path} can be packed: {left_out.summary()}.", source.remedy)
    paths = writer.finish()
    left_out.write(out / LEFT_OUT_FILE)
    tell(written, captions, paths, left_out, out, settings)
    return paths


def tell(written: int, captions: int, paths: list[Path], left_out: LeftOut, out: Path, settings: Settings) -> None:
    """Say what was written and what was not."""
    say(f"{counted(written, 'sample')} with {counted(captions, 'caption')} in {counted(len(paths), 'shard')}")
    if left_out:
        verb = "was" if len(left_out) == 1 else "were"
        say(f"{counted(len(left_out), 'row')} {verb} left out: {left_out.summary()}; see {out / LEFT_OUT_FILE}")
    for stem in ("train", "test") if settings.test_percent else ():
        if not any(path.name.startswith(f"{stem}-") for path in paths):
            say(f"no picture is in {stem}-*.tar: --test-percent {settings.test_percent} of so few can be none or all")


def description(source: Source, samples: Samples, settings: Settings, against: Shards | None) -> str:
    """What shards are made of, as ``pack.json`` says it; a packing that was interrupted goes on with the same only.

    Nothing in it depends on where the source lies.
    """
    about: dict[str, Any] = {"source": source.path.name, "rows": samples.sha256.hexdigest()}
    about |= asdict(source.options) | asdict(settings)
    del about["root"]
    about["dedup_against"] = hashlib.sha256(against.indexes.sha256.tobytes()).hexdigest() if against else ""
    return json.dumps(about, indent=1, sort_keys=True) + "\n"


def check_same(out: Path, described: str) -> None:
    """Raise a ``UserError`` if the folder holds shards of something else."""
    file = out / DESCRIPTION_FILE
    if file.is_file() and file.read_text(encoding="utf-8") != described:
        raise UserError(f"{out} holds shards of something else ({file}).", "Choose another --out.")
