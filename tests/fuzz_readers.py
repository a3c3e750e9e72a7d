"""Coverage-guided fuzzing of all code that reads files of unknown origin.

    pip install atheris
    python tests/fuzz_readers.py [--seconds 60] [TARGET …]

runs each target in a separate process, with real files as seeds. A reader must either read its input consistently,
without referring to bytes outside of it, or raise one of its documented exceptions. Any other exception, or a minute
without a result, ends the process, which saves the input; this command then ends with status 1.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Target = Callable[[bytes], None]
READERS = ("data", "recipe", "validation", "files", "ship", "training.checkpoint")
INSTRUMENTED = [*(f"distill.{name}" for name in READERS), "tarfile"]


Targets = dict[str, tuple[Target, list[bytes]]]


def targets(scratch: Path) -> Targets:
    """Functions to call with bytes, and seed inputs for them, by name."""
    from conftest import write_shards

    (shard,) = write_shards(scratch / "seed", (3,))
    return (
        shard_targets(scratch, shard)
        | cache_and_export_targets(scratch, shard)
        | checkpoint_targets(scratch)
        | text_targets(scratch)
    )


def shard_targets(scratch: Path, shard: Path) -> Targets:
    """Archives, streams, indexes, and tables of shards."""
    import numpy as np

    from distill.data.index import (
        TAR_ERRORS,
        file_stamp,
        index_paths,
        load_stored_index,
        members_fit,
        scan_shard,
    )
    from distill.data.indexes import read_index
    from distill.data.members import lost
    from distill.data.shards import Shards
    from distill.data.tar_stream import TarReader
    from distill.errors import UserError

    read_index(shard)
    Shards.open([str(shard)]).save(scratch / "table")
    file, stamp = scratch / "input", file_stamp(shard)

    def archive(data: bytes) -> None:
        file.write_bytes(data)
        index = scan_shard(file)
        assert members_fit(index.members, len(data)) and len(index.keys) == len(index.members)
        assert lost(index.leftovers).encode() or not any(one.remedy for one in index.leftovers)

    def stream(data: bytes) -> None:
        with suppress(*TAR_ERRORS):
            for key, parts, _ in TarReader().samples(io.BytesIO(data)):
                # A sample's members may be links to one member, and the archive may be compressed.
                assert key.encode() and sum(map(len, parts.values())) <= 3 * 2000 * len(data)

    def index(data: bytes) -> None:
        file.write_bytes(data)
        found = load_stored_index(file, shard, stamp)
        assert found is None or (
            members_fit(found.members, stamp[0]) and found.members.shape == (len(found.keys), 3, 2)
        )

    def table(data: bytes) -> None:
        file.write_bytes(data)
        with suppress(UserError):
            shards = Shards.load(file)
            assert 0 <= len(shards) == int(np.sum(shards.counts)) and shards.indexes.path(0)

    return {
        "archive": (archive, [shard.read_bytes(), linked(shard)]),
        "stream": (stream, [shard.read_bytes(), gzip.compress(shard.read_bytes()), linked(shard)]),
        "index": (index, [index_paths(shard)[0].read_bytes()]),
        "table": (table, [(scratch / "table").read_bytes()]),
    }


def linked(shard: Path) -> bytes:
    """A shard with links, and with members that belong to no sample, before its own members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target, kind in (("a.txt", "", b"0"), ("b.txt", "a.txt", b"1"), ("c/b.txt", "../b.txt", b"2")):
            info = tarfile.TarInfo(name)
            info.linkname, info.type = target, kind
            tar.addfile(info)
        for name in ("a.1.png", "a.mask.png", ".png", "._a.png", "cls", "d.png"):
            tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()[: 9 * tarfile.BLOCKSIZE] + shard.read_bytes()


def checkpoint_targets(scratch: Path) -> Targets:
    import torch
    from safetensors.torch import load, save

    from distill.training import checkpoint

    written = {"model/a": torch.ones(3)}
    checkpoint.write(scratch, written, {"scale": torch.ones(1)}, {"step": 1}, keep=1)
    folder, seal = scratch / "step-00000001", (scratch / "step-00000001" / "checkpoint.json").read_bytes()
    state = (folder / "state.safetensors").read_bytes()

    def sealed(data: bytes) -> None:
        (folder / "checkpoint.json").write_bytes(data)
        (folder / "state.safetensors").write_bytes(state)
        assert isinstance(checkpoint.complaint(folder), str)

    def tensors(data: bytes) -> None:
        (folder / "checkpoint.json").write_bytes(seal)
        (folder / "state.safetensors").write_bytes(data)
        accepted = checkpoint.complaint(folder) == ""
        assert accepted or data != state
        if accepted:  # only spaces in the header may differ: the tensors are those that were written
            assert load(data).keys() == written.keys() and all(
                torch.equal(load(data)[k], v) for k, v in written.items()
            )

    return {"sealed": (sealed, [seal]), "tensors": (tensors, [state, save({"x": torch.ones(2)})])}


def cache_and_export_targets(scratch: Path, shard: Path) -> Targets:
    import torch
    from conftest import CONFIG
    from safetensors.torch import save

    import teachers
    from distill.config import TeacherTable
    from distill.data.shards import Shards
    from distill.data.view_cache import ViewCache
    from distill.data.views import PLAIN_VIEWS
    from distill.errors import UserError
    from distill.ship.config_file import Config, read_config
    from distill.ship.load import read_tower

    card, shards = teachers.card("packaged/efficientnet_lite0"), Shards.open([str(shard)])
    cache = ViewCache(TeacherTable(name=card.name, cache=str(scratch / "cache")), card, PLAIN_VIEWS)
    cache.claim(shards.indexes[0], "weights")
    cache.write(shards.indexes[0], {"embedding": torch.zeros(1, 3, card.width, dtype=cache.dtype)}, "weights", [1])
    embeddings, export = cache.file(shard).read_bytes(), scratch / "export"
    export.mkdir()

    def cached(data: bytes) -> None:
        cache.file(shard).write_bytes(data)
        with suppress(UserError):
            again = ViewCache(cache.table, card, PLAIN_VIEWS)
            if not again.missing(shards):
                assert again.row(shards, 2, 0)["embedding"].shape == (card.width,)

    def config(data: bytes) -> None:
        (export / "config.json").write_bytes(data)
        with suppress(UserError):
            assert Config.model_validate_json(read_config(export).model_dump_json())

    def tower(data: bytes) -> None:
        (export / "image.safetensors").write_bytes(data)
        with suppress(ValueError):
            assert all(isinstance(value, torch.Tensor) for value in read_tower(export, "image").values())

    return {
        "cached": (cached, [embeddings]),
        "config": (config, [json.dumps(CONFIG).encode()]),
        "tower": (tower, [save({"x": torch.ones(2)})]),
    }


def text_targets(scratch: Path) -> Targets:
    """Recipes, and the members of a sample: captions and images."""
    import tomllib

    from conftest import RECIPE, encoded, picture

    from distill.data.captions import Captions
    from distill.data.sample import Sample
    from distill.data.views import decode
    from distill.errors import BadSample, UserError
    from distill.files import read_table
    from distill.lookup import resolve
    from distill.recipe import dump, parse

    def recipe(data: bytes) -> None:
        (scratch / "recipe").write_bytes(data)
        with suppress(UserError, ValueError):
            found = parse(read_table(scratch / "recipe", tomllib.loads))
            assert parse(tomllib.loads(dump(found))) == found
            resolve(found)

    def captions(data: bytes) -> None:
        with suppress(BadSample):
            for caption in Captions().read(Sample("key", "a.tar", None, data[:20], data)):
                caption.text.encode()

    def image(data: bytes) -> None:
        with suppress(BadSample):
            assert decode(Sample("key", "a.tar", data, None, None)).mode == "RGB"

    small = picture("cross", "blue", 1, 40)
    return {
        "recipe": (recipe, [RECIPE.format(shards="/data").encode()]),
        "captions": (captions, [b'{"captions": {"en": ["a", {"text": "b", "language": "de"}]}, "caption": "c"}']),
        "image": (image, [encoded(small, kind) for kind in ("PNG", "JPEG", "WEBP")]),
    }


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, and exit."""
    import atheris

    with tempfile.TemporaryDirectory() as scratch, atheris.instrument_imports(include=INSTRUMENTED):
        target, seeds = targets(Path(scratch))[name]
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", "-timeout=60", "-max_len=40000", "-rss_limit_mb=8192", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], target)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target; default 60")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz(options.one, options.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        known = list(targets(Path(scratch)))
    failed = False
    for name in options.targets or known:
        command = [sys.executable, __file__, "--one", name, "--seconds", str(options.seconds)]
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        lines = result.stderr.splitlines()
        runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
        print(f"{name:10} {runs:>9} inputs  {'failed' if result.returncode else 'fine'}", flush=True)
        if result.returncode:
            failed = True
            print("\n".join(lines[-40:]), file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
