"""Samples and batches read from streams: remote files and the output of commands."""

from __future__ import annotations

import tarfile
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch
from conftest import (
    encoded,
    picture,
    sample,
    write_tar,
)
from faulty_server import FILES, POLICY, Server, stalled, stalling

from distill.data.batch import Batch
from distill.data.captions import Captions
from distill.data.loading import load_batches
from distill.data.remote import RetryPolicy
from distill.data.shard_names import stream_addresses
from distill.data.shards import Shards
from distill.data.streams import StreamDataset, read_samples
from distill.data.transform import Transform, TransformOptions
from distill.data.views import Views
from distill.errors import BadSample, UserError
from students import SentencePieceTokenizer


def test_a_stream_gives_the_same_samples_as_the_file(server: Server, folder: Path) -> None:
    for fault in ("plain", "cut@30000x2"):
        opened = Shards.open([str(folder / FILES[1])])
        found = list(read_samples(f"{server.url}/{fault}/{FILES[1]}", POLICY))
        expected = [opened.read(i) for i in range(len(opened))]
        assert [(s.key, s.image, s.txt, s.json) for s in found] == [(s.key, s.image, s.txt, s.json) for s in expected]
        opened.close()


def header_only(kind: bytes, size: int, name: str = "a.png") -> bytes:
    """The tar header of a member with this type and size, without its content."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def damaged(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Invalid archives, each with the expected reason; also writes the valid whole.tar."""
    whole = write_tar(tmp_path / "whole.tar", [m for i in range(4) for m in sample(f"{i}", "circle", "red", i)])
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        boundary = tar.getmembers()[6].offset
    made = {
        "empty": (b"", "the archive is cut off or damaged after 0 samples: empty"),
        "long_name": (header_only(tarfile.XHDTYPE, 400 << 20), "the archive is cut off or damaged after 0 samples"),
        "endless": (
            header_only(tarfile.REGTYPE, 1 << 60, "a.md"),
            "the archive is cut off or damaged after 0 samples",
        ),
        "endless_image": (header_only(tarfile.REGTYPE, 1 << 60), "the archive is cut off or damaged after 0 samples"),
        "sparse": (header_only(tarfile.GNUTYPE_SPARSE, 9), "the archive is cut off or damaged after 0 samples"),
        "cut": (data[: len(data) // 2], "the archive is cut off or damaged after"),
        "at_a_border": (data[:boundary], "the archive is cut off or damaged after 1 sample: empty header"),
        "torn": (data[:boundary] + b"?" + data[boundary + 1 :], "the archive is cut off or damaged after 1 sample"),
        "page": (b"<html>" + b"Sorry!" * 400, "it is a web page or XML, no tar archive"),
        "other": (write_tar(tmp_path / "other.tar", [("readme.md", b"hello")]).read_bytes(), "no member is named"),
    }
    for name, (content, _) in made.items():
        (tmp_path / f"{name}.bin").write_bytes(content)
    return {name: (tmp_path / f"{name}.bin", reason) for name, (_, reason) in made.items()}


def test_a_damaged_archive_raises_bad_sample_for_the_whole_shard(tmp_path: Path) -> None:
    for path, reason in damaged(tmp_path).values():
        with pytest.raises(BadSample) as caught:
            list(read_samples(f"pipe:cat {path}", POLICY))
        assert caught.value.bad.key == "" and caught.value.bad.reason.startswith(reason), path
    assert (
        len(list(read_samples(f"pipe:cat {tmp_path}/whole.tar /dev/zero", POLICY))) == 4
    )  # what follows the archive is not read


def streams(addresses: list[str], size: int = 8, seed: tuple[int, ...] = (0, 0, 0), pieces: int = 1) -> StreamDataset:
    tokenizer = SentencePieceTokenizer.train(["a red circle", "ein Kreis, rot", "a blue square"], 50, 8)
    transform = Transform(tokenizer, [], TransformOptions(Captions(), Views((0.5, 1.0), True), side=16, seed=1))
    return StreamDataset(addresses, POLICY, transform, size, seed, pieces)


def take(given: StreamDataset, count: int, workers: int = 0) -> list[Batch]:
    return [piece for (piece,) in islice(load_batches(given, workers, False), count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_give_every_sample_and_none_twice_in_a_batch(server: Server, workers: int) -> None:
    addresses = stream_addresses([f"{server.url}/plain/train-{{000000..000002}}.tar"])
    assert len(addresses) == 3
    found = take(streams(addresses), 60, workers)
    assert all(len(set(batch.keys)) == 8 for batch in found)
    assert len({key for batch in found for key in batch.keys}) == 80
    again = take(streams(addresses), 60, workers)
    assert [batch.checksum for batch in again] == [batch.checksum for batch in found]
    for other in ((1, 0, 0), (0, 7, 0), (0, 0, 1)):  # another seed, another start, another process
        assert [batch.checksum for batch in take(streams(addresses, seed=other), 3, workers)] != [
            b.checksum for b in found[:3]
        ]


def test_bad_samples_and_shards_in_streams_are_reported_and_skipped(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    members = [*sample("good", "circle", "red", 0), ("bad.png", b"damaged"), ("bad.txt", b"a red circle")]
    members += [("no-caption.png", encoded(picture("circle", "red", 1)))]
    write_tar(folder / "some.tar", members)
    addresses = [f"{server.url}/plain/{name}" for name in (*FILES, "some.tar", "nowhere.tar")]
    found = take(streams(addresses), 60)
    bad = {(one.shard, one.key): one.reason for batch in found for one in batch.bad}
    assert bad.keys() == {(addresses[3], "bad"), (addresses[3], "no-caption"), (addresses[4], "")}
    assert "is of no format" in bad[addresses[3], "bad"] and "404" in bad[addresses[4], ""]
    assert not {key for batch in found for key in batch.keys} & {"bad", "no-caption"}


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_without_enough_usable_samples_are_an_error(server: Server, folder: Path, workers: int) -> None:
    with pytest.raises(UserError, match=r"10 streams in a row could not be read, the last: .*404"):
        take(streams([f"{server.url}/plain/nowhere.tar"]), 1, workers)
    write_tar(folder / "torn.tar", [(f"{i}.{kind}", b"damaged") for i in range(50) for kind in ("png", "txt")])
    with pytest.raises(UserError, match=r"too few samples .* for a batch of 8 a process; the last .*torn.tar \d+: "):
        take(streams([f"{server.url}/plain/torn.tar"]), 1, workers)
    with pytest.raises(UserError, match="too few samples that differ"):
        take(streams([f"{server.url}/plain/{FILES[2]}"], size=17), 1, workers)


def test_the_pieces_of_a_batch_together_are_the_batch(server: Server) -> None:
    """No sample occurs twice, not even in different pieces: it would be its own negative."""
    addresses = [f"{server.url}/plain/{FILES[2]}"]
    whole = take(streams(addresses, size=16), 20)
    pieces = list(islice(load_batches(streams(addresses, size=16, pieces=4), 0, False), 20))
    assert all(len(set(batch.keys)) == 16 for batch in whole)
    for batch, parts in zip(whole, pieces, strict=True):
        assert [len(part.keys) for part in parts] == [4] * 4
        assert sum((part.keys for part in parts), ()) == batch.keys
        assert torch.equal(torch.cat([part.inputs["image"] for part in parts]), batch.inputs["image"])


def test_loaders_and_commands_end_when_batches_are_closed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including loaders that wait for the output of a stalled command."""
    # With the default buffer there would be no batch before the command stalls.
    monkeypatch.setattr("distill.data.streams.SHUFFLE_BUFFER", 1)
    (tmp_path / "flag").touch()
    before = set(psutil.Process().children(recursive=True))
    given = streams([stalling(folder, tmp_path / "flag")], size=2)
    given.policy = RetryPolicy(timeout=600.0, retries=5)
    loaded = load_batches(given, 2, False)
    next(loaded)
    waiting = set(stalled(psutil.Process(), 2)) - before
    assert len(waiting) >= 4  # two loaders, and the processes that each has started
    start = time.monotonic()
    loaded.close()
    assert not psutil.wait_procs(waiting, timeout=20)[1] and time.monotonic() - start < 20


def test_a_frequently_drawn_missing_shard_does_not_end_the_training(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than nine of ten draws are of the missing shard, which is reported as bad; the other one is still read."""
    missing = [f"{server.url}/plain/nowhere.tar"] * 30
    given = streams([*missing, f"{server.url}/plain/{FILES[2]}"])
    given.policy = RetryPolicy(timeout=1.0, retries=0, first_wait=0.0)
    monkeypatch.setattr("distill.data.streams.SHUFFLE_BUFFER", 16)
    before = server.requests[f"/plain/{FILES[2]}"]
    batches = take(given, 8)
    assert server.requests[f"/plain/{FILES[2]}"] - before >= 4
    assert {one.shard for batch in batches for one in batch.bad} == {missing[0]}


def test_a_stream_that_sends_bytes_but_no_sample_times_out(tmp_path: Path) -> None:
    policy = RetryPolicy(timeout=5.0, retries=0, first_wait=0.01, sample_timeout=1.0)
    start = time.monotonic()
    header = tmp_path / "header"
    header.write_bytes(header_only(tarfile.REGTYPE, 1 << 30, "a.md"))
    with pytest.raises(BadSample, match="nothing of use came for 1 seconds"):
        list(read_samples(f"pipe:cat {header}; while true; do printf x; sleep 0.05; done", policy))
    path = write_tar(tmp_path / "a.tar", [(f"readme{i}.md", b"") for i in range(3)])
    command = f"head -c 1536 {path}"  # endless members, none of them of a sample
    with pytest.raises(BadSample, match="nothing of use came for 1 seconds"):
        list(read_samples(f"pipe:while true; do {command}; sleep 0.01; done", policy))
    assert time.monotonic() - start < 20


def test_the_members_of_a_sample_may_have_any_order(tmp_path: Path) -> None:
    image = encoded(picture("circle", "red", 1))
    members = [("a.txt", b"one"), ("a.PNG", image), ("a.txt", b"two"), ("note.md", b""), ("b.json", b"{}")]
    path = write_tar(tmp_path / "a.tar", members)
    first, second = read_samples(f"pipe:cat {path}", POLICY)
    assert (first.key, first.txt, first.image, first.json) == ("a", b"one", image, None)
    assert (second.key, second.json, second.image) == ("b", b"{}", None)
