"""Randomly corrupted input files: every reader either reads them consistently or raises its documented error."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tomllib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIG, RECIPE, encoded, picture, sample, write_shards, write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import teachers
from distill.config import TeacherTable
from distill.data.captions import Captions
from distill.data.index import (
    TAR_ERRORS,
    file_stamp,
    index_paths,
    load_stored_index,
    members_fit,
    scan_shard,
)
from distill.data.indexes import read_index
from distill.data.sample import Sample
from distill.data.shards import Shards
from distill.data.tar_stream import TarReader
from distill.data.view_cache import ViewCache
from distill.data.views import PLAIN_VIEWS, decode
from distill.errors import BadSample, UserError
from distill.files import read_table
from distill.recipe import dump, load, parse
from distill.ship.config_file import Config, read_config
from distill.ship.load import read_tower
from distill.training import checkpoint

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Positions in a file, as fractions of its length, with the bytes to write there; then the fraction to cut it off at.
CHANGES = st.tuples(
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)), max_size=4),
    st.floats(0, 1) | st.just(1.0),
)


def corrupted(data: bytes, changes: tuple[list[tuple[float, bytes]], float]) -> bytes:
    content = bytearray(data)
    for fraction, piece in changes[0]:
        position = int(fraction * len(content))
        content[position : position + len(piece)] = piece
    return bytes(content[: int(changes[1] * len(content))])


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = write_shards(tmp_path_factory.mktemp("fuzz"), (4,))
    return path


@EXAMPLES
@given(changes=CHANGES)
def test_corrupted_archives_are_indexed_within_their_bounds(
    tmp_path: Path, shard: Path, changes: tuple[list[tuple[float, bytes]], float]
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(corrupted(shard.read_bytes(), changes))
    index = scan_shard(path)
    assert members_fit(index.members, path.stat().st_size) and len(index.keys) == len(index.members)
    for key in index.keys:
        key.encode()
    if len(index):
        shards = Shards([index])
        for i in range(len(shards)):
            with suppress(BadSample):
                Captions().read(shards.read(i))
                decode(shards.read(i))
        shards.close()


NAMES = st.text(st.sampled_from("ab.._/1A~ü"), max_size=4).flatmap(
    lambda stem: st.sampled_from(["jpg", "PNG", "txt", "json", "cls", "mask.png", "1.txt", "", "tar"]).map(
        lambda ending: f"{stem}.{ending}"
    )
)


@EXAMPLES
@given(members=st.lists(st.tuples(NAMES, st.sampled_from([None, "a.jpg", "b.txt", "../a.txt"])), max_size=12))
def test_every_member_is_part_of_a_sample_or_counted(tmp_path: Path, members: list[tuple[str, str | None]]) -> None:
    """Of a local shard: as many members as the samples have, second ones of a name and leftovers. A stream whose
    samples have their members beside each other gives the same samples."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number, (name, target) in enumerate(members):
            info, data = tarfile.TarInfo(name), b"%d" % number
            if target is None:
                info.size = len(data)
            else:
                info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info, io.BytesIO(data))
    index = scan_shard(path)
    repeated = [reason for key, reason in index.faults if key]
    left = sum(one.count for one in index.leftovers)
    assert int((index.members[..., 1] >= 0).sum()) + len(repeated) + left == len(members)
    assert [*index.keys] or not members or index.faults
    reader = TarReader()
    samples = list(reader.samples(io.BytesIO(path.read_bytes())))
    assert reader.count == len(samples)
    if not any(target for _, target in members) and not reader.apart.sentence():
        given = {key: parts for key, parts, _ in samples}
        if len(given) == len(samples):
            assert [*given] == [*index.keys]
            assert sum(map(len, given.values())) == int((index.members[..., 1] >= 0).sum())
            assert sum(one.count for one in reader.leftovers.found()) == left + len(repeated)


@EXAMPLES
@given(changes=CHANGES, compress=st.booleans())
def test_corrupted_streams_raise_only_documented_errors(
    shard: Path, changes: tuple[list[tuple[float, bytes]], float], compress: bool
) -> None:
    whole = shard.read_bytes()
    data = corrupted(gzip.compress(whole) if compress else whole, changes)
    with suppress(*TAR_ERRORS):
        for key, parts, _ in TarReader().samples(io.BytesIO(data)):
            assert key.encode() and sum(map(len, parts.values())) <= len(whole)


@EXAMPLES
@given(header=st.binary(min_size=512, max_size=512), rest=st.binary(max_size=600))
def test_archives_of_arbitrary_bytes_are_indexed_within_their_bounds(
    tmp_path: Path, header: bytes, rest: bytes
) -> None:
    path = tmp_path / "a.tar"
    fields = bytearray(header)
    fields[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))  # a valid checksum
    path.write_bytes(bytes(fields) + rest)
    index = scan_shard(path)
    assert members_fit(index.members, path.stat().st_size)


@EXAMPLES
@given(changes=CHANGES)
def test_corrupted_indexes_are_rejected_or_point_into_their_shard(
    tmp_path: Path, shard: Path, changes: tuple[list[tuple[float, bytes]], float]
) -> None:
    """An index that is accepted has members only within its shard."""
    expected = read_index(shard)
    stored = tmp_path / "index"
    stored.write_bytes(corrupted(index_paths(shard)[0].read_bytes(), changes))
    found = load_stored_index(stored, shard, file_stamp(shard))
    if found is not None:
        assert found.members.shape == (len(found.keys), 3, 2) and members_fit(found.members, shard.stat().st_size)
        assert len(found) == len(expected)


@EXAMPLES
@given(members=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_members_fit_exactly_if_all_lie_inside_the_file(members: list[tuple[int, int]]) -> None:
    spans = np.array(members, dtype=np.int64)
    expected = all(0 <= offset <= 1000 and -1 <= size <= 1000 - offset for offset, size in members)
    assert members_fit(spans, 1000) == expected


@EXAMPLES
@given(changes=CHANGES)
def test_corrupted_checkpoints_are_detected_or_unchanged(
    tmp_path: Path, changes: tuple[list[tuple[float, bytes]], float]
) -> None:
    """A checkpoint without a complaint has the tensors that were written."""
    folder, tensors = tmp_path / "checkpoints", {"model/a": torch.arange(40.0), "optimizer/a/step": torch.tensor(3.0)}
    checkpoint.write(folder, tensors, {"scale": torch.ones(1)}, {"step": 1}, keep=1)
    file = folder / "step-00000001" / "state.safetensors"
    whole = file.read_bytes()
    file.write_bytes(corrupted(whole, changes))
    complaint = checkpoint.complaint(folder / "step-00000001")
    if not complaint:
        found = checkpoint.Snapshot.read(folder / "step-00000001")
        assert torch.equal(found.model["a"], tensors["model/a"]) and found.optimizer["a/step"] == 3


@EXAMPLES
@given(changes=CHANGES)
def test_corrupted_tables_of_shards_raise_only_documented_errors(
    tmp_path: Path, shard: Path, changes: tuple[list[tuple[float, bytes]], float]
) -> None:
    Shards.open([str(shard)]).save(tmp_path / "whole")
    (tmp_path / "shards").write_bytes(corrupted((tmp_path / "whole").read_bytes(), changes))
    with suppress(UserError):
        shards = Shards.load(tmp_path / "shards")
        for i in range(min(len(shards), 9)):
            with suppress(BadSample):
                shards.read(i)
        shards.close()


@EXAMPLES
@given(changes=CHANGES)
def test_corrupted_caches_are_refused_or_give_the_rows_that_were_written(
    tmp_path: Path, shard: Path, changes: tuple[list[tuple[float, bytes]], float]
) -> None:
    """Every row that can be read is the one that was written."""
    shards = Shards.open([str(shard)])
    cache, rows = cache_in(tmp_path), torch.arange(4 * 1280.0).view(1, 4, 1280)
    cache.write(shards.indexes[0], {"embedding": rows}, "weights", absent=[2])
    file = cache.file(shard)
    file.write_bytes(corrupted(file.read_bytes(), changes))
    with suppress(UserError):
        if not cache.missing(shards):
            for i in (0, 1, 3):
                assert torch.equal(cache.row(shards, i, 0)["embedding"], rows[0, i])
            with pytest.raises(BadSample):
                cache.row(shards, 2, 0)


def cache_in(folder: Path) -> ViewCache:
    """A cache in this folder, of a teacher with embeddings of width 1,280."""
    table = TeacherTable(name="packaged/efficientnet_lite0", cache=str(folder / "cache"), dtype="fp32")
    cache = ViewCache(table, teachers.card(table.name), PLAIN_VIEWS)
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache" / "teacher.json").write_text(json.dumps(cache.identity | {"weights": "weights"}))
    return cache


TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)
SECTIONS = ("data", "teacher", "student", "objective", "optim", "train", "zero", "checkpoint")


@EXAMPLES
@given(section=st.sampled_from(SECTIONS), key=st.text(max_size=12), value=TREE, whole=st.booleans())
def test_arbitrary_recipes_are_refused_or_survive_a_round_trip(
    section: str, key: str, value: object, whole: bool
) -> None:
    """A recipe that is accepted is equal to itself after dumping and parsing; others raise UserError."""
    tree = tomllib.loads(RECIPE.format(shards="/data"))
    if whole:
        tree[section] = value
    else:
        table = tree.setdefault(section, {})
        (table[0] if isinstance(table, list) else table)[key] = value
    with suppress(UserError):
        recipe = parse(tree)
        assert parse(tomllib.loads(dump(recipe))) == recipe


@EXAMPLES
@given(key=st.sampled_from(["", *CONFIG]), inner=st.text(max_size=12), value=TREE, changes=CHANGES)
def test_corrupted_exports_are_refused_or_survive_a_round_trip(
    tmp_path: Path, key: str, inner: str, value: object, changes: tuple[list[tuple[float, bytes]], float]
) -> None:
    """A config.json that is accepted is equal to itself after a round trip; a damaged tower raises ValueError."""
    tree = json.loads(json.dumps(CONFIG))
    if key and isinstance(tree[key], dict) and inner:
        tree[key][inner] = value
    elif key:
        tree[key] = value
    content = json.dumps(tree).encode()
    (tmp_path / "config.json").write_bytes(content if key else corrupted(content, changes))
    with suppress(UserError):
        config = read_config(tmp_path)
        assert Config.model_validate_json(config.model_dump_json()) == config or value != value
    save_file({"x": torch.arange(40.0)}, tmp_path / "image.safetensors")
    (tmp_path / "image.safetensors").write_bytes(corrupted((tmp_path / "image.safetensors").read_bytes(), changes))
    with suppress(ValueError):
        assert all(isinstance(value, torch.Tensor) for value in read_tower(tmp_path, "image").values())


@EXAMPLES
@given(text=st.binary(max_size=200), tree=st.binary(max_size=200) | TREE.map(lambda x: json.dumps(x).encode()))
def test_arbitrary_captions_are_refused_or_valid_text(text: bytes, tree: bytes) -> None:
    with suppress(BadSample):
        for caption in Captions().read(Sample("key", Path("a.tar"), None, text, tree)):
            caption.text.encode()


@EXAMPLES
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), changes=CHANGES)
def test_corrupted_images_are_refused_or_decoded_to_rgb(
    kind: str, changes: tuple[list[tuple[float, bytes]], float]
) -> None:
    data = corrupted(encoded(picture("cross", "blue", 1), kind), changes)
    with suppress(BadSample):
        image = decode(Sample("key", Path("a.tar"), data, None, None))
        assert image.mode == "RGB" and image.width * image.height <= 100_000_000


def test_tables_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    for name, content in {"a.json": b"[" * 100_000, "b.json": b"[]", "c.json": b"\xff"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="nested too deeply|no table|invalid start byte"):
            read_table(tmp_path / name, json.loads)
    (tmp_path / "config.json").write_bytes(b'{"a": ' * 100_000)
    with pytest.raises(UserError, match="neither an export nor a run"):
        read_config(tmp_path)
    (tmp_path / "deep.toml").write_text(f"a = {'[' * 100_000}")
    with pytest.raises(UserError, match="not valid TOML: it is nested too deeply"):
        load(str(tmp_path / "deep.toml"))


def test_member_names_that_are_not_utf8_become_escaped_keys(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", encoding="latin-1", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sample("caf\xe9", "circle", "red", 1)[:2]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    assert read_index(tmp_path / "a.tar").keys == ("caf\\xe9",)
    assert read_index(write_tar(tmp_path / "b.tar", sample("café", "circle", "red", 1))).keys == ("café",)
    save_file({"x": torch.ones(1)}, tmp_path / "c.index")
    assert load_stored_index(tmp_path / "c.index", tmp_path / "a.tar", file_stamp(tmp_path / "a.tar")) is None
