"""Shards as a random-access data set: indexes agree with the tar files, and with webdataset's reader."""

from __future__ import annotations

import os
import pickle
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encoded, picture, sample, write_shards, write_tar
from webdataset.tariterators import group_by_keys, tar_file_iterator

from distill.data.index import scan_shard
from distill.data.indexes import read_index
from distill.data.packing.shard_writer import write_shards as pack
from distill.data.shard_names import shard_paths
from distill.data.shards import Shards
from distill.errors import BadSample, UserError


def by_webdataset(path: Path) -> list[dict[str, Any]]:
    """The samples of a shard as webdataset's reader groups them."""
    with path.open("rb") as stream:
        return list(group_by_keys({**member, "__url__": ""} for member in tar_file_iterator(stream)))


def test_every_sample_is_the_same_as_with_webdatasets_reader(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, (5, 3))
    shards = Shards.open([str(tmp_path)])
    streamed = [sample for path in paths for sample in by_webdataset(path)]
    assert len(shards) == len(streamed) == 8
    for i, expected in enumerate(streamed):
        found = shards.read(i)
        assert found.key == shards.key(i) == expected["__key__"]
        assert (found.image, found.txt, found.json) == (expected["png"], expected["txt"], expected["json"])
    shards.close()


def test_long_names_and_folders_are_grouped_as_by_webdataset(tmp_path: Path) -> None:
    long = "folder/" + "x" * 150  # needs an additional pax or GNU header
    write_tar(tmp_path / "a.tar", [(f"{long}.seg.png", b"no image"), (f"{long}.png", b"1"), (f"{long}.txt", b"2")])
    index = scan_shard(tmp_path / "a.tar")
    assert index.keys == (long,)
    shards = Shards([index])
    assert (shards.read(0).image, shards.read(0).txt) == (b"1", b"2")
    shards.close()


def test_packed_shards_are_readable_reproducible_and_never_overwritten(tmp_path: Path) -> None:
    rows = [{"__key__": f"k{i}", "png": encoded(picture("circle", "red", i)), "txt": f"{i}"} for i in range(5)]
    paths = pack(tmp_path / "a", "train", rows, per_shard=2)
    assert [p.name for p in paths] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    shards = Shards.open([str(tmp_path / "a")])
    assert [shards.read(i).txt for i in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    again = pack(tmp_path / "b", "train", rows, per_shard=2)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    with pytest.raises(UserError, match="already exists"):
        pack(tmp_path / "a", "train", rows, per_shard=2)
    shards.close()


def test_an_index_is_reused_until_the_shard_changes(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, (3,))
    first = read_index(path)
    index_file = tmp_path / "train-000000.tar.index"
    written = index_file.stat().st_mtime_ns
    assert read_index(path).keys == first.keys
    assert index_file.stat().st_mtime_ns == written
    time.sleep(0.01)
    write_shards(tmp_path, (2,), first=10)
    second = read_index(path)
    assert second.keys == ("000010", "000011")
    assert second.sha256 != first.sha256


def test_a_damaged_index_is_replaced(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, (3,))
    expected = read_index(path)
    index_file = tmp_path / "train-000000.tar.index"
    for damaged in (b"", b"not an index", index_file.read_bytes()[:-9]):
        index_file.write_bytes(damaged)
        found = read_index(path)
        assert found.keys == expected.keys
        assert np.array_equal(found.members, expected.members)


def test_at_most_a_fixed_number_of_shards_is_open_at_a_time(tmp_path: Path) -> None:
    count = 110 + len(os.listdir("/proc/self/fd")) // 4
    write_shards(tmp_path, (1,) * count)
    before, usual = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = before + 400
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, usual[1]))
    try:
        shards = Shards.open([str(tmp_path)])
        texts = [shards.read(i).txt for i in (*range(len(shards)), 0)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert len(texts) == count + 1 and all(texts) and texts[0] == texts[count]
    opened = len(os.listdir("/proc/self/fd")) - before
    assert 0 < opened <= limit // 4, "a quarter of what a process may have"
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.read(3).txt == texts[3]
    shards.close()
    copy.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(b""), "empty, cut off or damaged"),
        (lambda p: p.write_bytes(b"text" * 1000), "empty, cut off or damaged"),
        (lambda p: write_tar(p, [("readme.md", b"hello")]), "no member is named"),
        (lambda p: write_tar(p, [("a.png", b"1"), ("a.jpg", b"2")]), "two image members"),
    ],
)
def test_the_error_about_an_invalid_shard_names_its_file(tmp_path: Path, make: object, words: str) -> None:
    path = tmp_path / "bad.tar"
    make(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=words) as error:
        Shards.open([str(path)])
    assert str(path) in str(error.value)


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1500, 3000])
def test_a_truncated_shard_is_refused(tmp_path: Path, cut: int) -> None:
    (path,) = write_shards(tmp_path, (6,))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole.rstrip(b"\0")) - cut])
    with pytest.raises(UserError, match="cut off or damaged"):
        Shards.open([str(path)])
    # Samples before the cut are usable if not strict.
    rest = Shards.open([str(path)], strict=False)
    usable = len(rest) - len({key for kind in ("image", "txt") for _, key in rest.missing(kind)})
    assert 3 <= usable <= len(rest) <= 6 and [fault[:2] for fault in rest.faults] == [(str(path), "")]
    for i in range(usable):
        assert rest.read(i).txt
    rest.close()


def test_a_shard_with_one_damaged_header_is_refused(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, (6,))
    whole = bytearray(path.read_bytes())
    offset = int(scan_shard(path).members[3, 0, 0]) - 512
    whole[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(whole)
    with pytest.raises(UserError, match="cut off or damaged after 3 samples"):
        Shards.open([str(path)])


def test_a_shard_that_shrinks_while_in_use_is_detected(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, (6,))
    shards = Shards.open([str(path)])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadSample, match="has been replaced"):
        shards.read(5)
    shards.close()


def test_shard_specifications_expand_to_files_in_order(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, (1, 1, 1))
    assert shard_paths([str(tmp_path / "train-{000000..000002}.tar")]) == paths
    assert shard_paths([str(tmp_path)]) == paths
    assert shard_paths([str(paths[2]), str(paths[0])]) == [paths[2], paths[0]]
    for bad, words in (
        ("nowhere.tar", "does not exist"),
        ("https://host/a.tar", "remote stream"),
        ("pipe:cat a.tar", "remote stream"),
        (str(tmp_path / "empty"), "no .tar"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=words):
            shard_paths([bad])
    with pytest.raises(UserError, match="named twice"):
        shard_paths([str(paths[0]), str(tmp_path)])


def test_samples_without_an_image_or_caption_are_found(tmp_path: Path) -> None:
    members = sample("a", "circle", "red", 0) + [("b.png", b"")] + [("c.txt", b"words")]
    write_tar(tmp_path / "a.tar", members)
    shards = Shards.open([str(tmp_path)])
    assert [key for _, key in shards.missing("image")] == ["c"]
    assert [key for _, key in shards.missing("txt", "json")] == ["b"]
