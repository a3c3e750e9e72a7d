"""Samples and batches of streams."""

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
from distill.data.transform import Drawing, Transform
from distill.data.views import Views
from distill.errors import BadSample, UserError
from students import SentencePieceTokenizer


def test_a_streams_samples_are_those_of_the_addressed_shard(server: Server, folder: Path) -> None:
    for fault in ("plain", "cut@30000x2"):
        opened = Shards.open([str(folder / FILES[1])])
        found = list(read_samples(f"{server.url}/{fault}/{FILES[1]}", POLICY))
        expected = [opened.read(i) for i in range(len(opened))]
        assert [(s.key, s.image, s.txt, s.json) for s in found] == [(s.key, s.image, s.txt, s.json) for s in expected]
        opened.close()


def claiming(kind: bytes, size: int, name: str = "a.png") -> bytes:
    """A header alone, of something so large."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def damaged(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Archives that are not what they should be."""
    whole = write_tar(tmp_path / "whole.tar", [m for i in range(4) for m in sample(f"{i}", "circle", "red", i)])
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        border = tar.getmembers()[6].offset
    made = {
        "empty": (b"", "the archive is cut off or damaged after 0 samples: empty"),
        "long_name": (claiming(tarfile.XHDTYPE, 400 << 20), "the archive is cut off or damaged after 0 samples"),
        "endless": (claiming(tarfile.REGTYPE, 1 << 60, "a.md"), "the archive is cut off or damaged after 0 samples"),
        "endless_image": (claiming(tarfile.REGTYPE, 1 << 60), "the archive is cut off or damaged after 0 samples"),
        "sparse": (claiming(tarfile.GNUTYPE_SPARSE, 9), "the archive is cut off or damaged after 0 samples"),
        "cut": (data[: len(data) // 2], "the archive is cut off or damaged after"),
        "at_a_border": (data[:border], "the archive is cut off or damaged after 1 samples: empty header"),
        "torn": (data[:border] + b"?" + data[border + 1 :], "the archive is cut off or damaged after 1 samples"),
        "page": (b"<html>" + b"Sorry!" * 400, "the archive is cut off or damaged after 0 samples"),
        "other": (write_tar(tmp_path / "other.tar", [("readme.md", b"hello")]).read_bytes(), "no member is named"),
    }
    for name, (content, _) in made.items():
        (tmp_path / f"{name}.bin").write_bytes(content)
    return {name: (tmp_path / f"{name}.bin", reason) for name, (_, reason) in made.items()}


def test_an_archive_that_is_damaged_is_a_bad_shard(tmp_path: Path) -> None:
    for path, reason in damaged(tmp_path).values():
        with pytest.raises(BadSample) as caught:
            list(read_samples(f"pipe:cat {path}", POLICY))
        assert caught.value.bad.key == "" and caught.value.bad.reason.startswith(reason), path
    assert len(list(read_samples(f"pipe:cat {tmp_path}/whole.tar /dev/zero", POLICY))) == 4  # what follows is not read


def streams(places: list[str], size: int = 8, seed: tuple[int, ...] = (0, 0, 0), pieces: int = 1) -> StreamDataset:
    tokenizer = SentencePieceTokenizer.train(["a red circle", "ein Kreis, rot", "a blue square"], 50, 8)
    transform = Transform(tokenizer, [], Drawing(Captions(), Views((0.5, 1.0), True), side=16, seed=1))
    return StreamDataset(places, POLICY, transform, size, seed, pieces)


def taken(given: StreamDataset, count: int, workers: int = 0) -> list[Batch]:
    return [piece for (piece,) in islice(load_batches(given, workers, False), count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_bring_every_sample_and_none_twice_in_a_batch(server: Server, workers: int) -> None:
    places = stream_addresses([f"{server.url}/plain/train-{{000000..000002}}.tar"])
    assert len(places) == 3
    found = taken(streams(places), 60, workers)
    assert all(len(set(batch.keys)) == 8 for batch in found)
    assert len({key for batch in found for key in batch.keys}) == 80
    again = taken(streams(places), 60, workers)
    assert [batch.sum for batch in again] == [batch.sum for batch in found]
    for other in ((1, 0, 0), (0, 7, 0), (0, 0, 1)):  # another seed, another start, another process
        assert [batch.sum for batch in taken(streams(places, seed=other), 3, workers)] != [b.sum for b in found[:3]]


def test_what_is_bad_in_streams_is_noted_and_passed_over(server: Server, folder: Path, tmp_path: Path) -> None:
    members = [*sample("good", "circle", "red", 0), ("bad.png", b"damaged"), ("bad.txt", b"a red circle")]
    members += [("mute.png", encoded(picture("circle", "red", 1)))]
    write_tar(folder / "some.tar", members)
    places = [f"{server.url}/plain/{name}" for name in (*FILES, "some.tar", "nowhere.tar")]
    found = taken(streams(places), 60)
    bad = {(one.shard, one.key): one.reason for batch in found for one in batch.bad}
    assert bad.keys() == {(places[3], "bad"), (places[3], "mute"), (places[4], "")}
    assert "is of no format" in bad[places[3], "bad"] and "404" in bad[places[4], ""]
    assert not {key for batch in found for key in batch.keys} & {"bad", "mute"}


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_that_bring_nothing_are_an_error(server: Server, folder: Path, workers: int) -> None:
    with pytest.raises(UserError, match=r"10 streams in a row could not be read, the last: .*404"):
        taken(streams([f"{server.url}/plain/nowhere.tar"]), 1, workers)
    write_tar(folder / "torn.tar", [(f"{i}.{kind}", b"damaged") for i in range(50) for kind in ("png", "txt")])
    with pytest.raises(UserError, match=r"too few samples .* for a batch of 8 a process; the last .*torn.tar \d+: "):
        taken(streams([f"{server.url}/plain/torn.tar"]), 1, workers)
    with pytest.raises(UserError, match="too few samples that differ"):
        taken(streams([f"{server.url}/plain/{FILES[2]}"], size=17), 1, workers)


def test_a_batch_in_pieces_is_the_batch(server: Server) -> None:
    """No sample is twice in it: in another piece, too, it would be its own negative."""
    places = [f"{server.url}/plain/{FILES[2]}"]
    whole = taken(streams(places, size=16), 20)
    pieces = list(islice(load_batches(streams(places, size=16, pieces=4), 0, False), 20))
    assert all(len(set(batch.keys)) == 16 for batch in whole)
    for batch, parts in zip(whole, pieces, strict=True):
        assert [len(part.keys) for part in parts] == [4] * 4
        assert sum((part.keys for part in parts), ()) == batch.keys
        assert torch.equal(torch.cat([part.inputs["image"] for part in parts]), batch.inputs["image"])


def test_loaders_and_commands_end_with_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that wait for a command which prints nothing any more."""
    # Or there would be no batch before the command stalls.
    monkeypatch.setattr("distill.data.streams.SHUFFLE_BUFFER", 1)
    (tmp_path / "flag").touch()
    before = set(psutil.Process().children(recursive=True))
    given = streams([stalling(folder, tmp_path / "flag")], size=2)
    given.policy = RetryPolicy(timeout=600.0, retries=5)
    loaded = load_batches(given, 2, False)
    next(loaded)
    waiting = set(stalled(psutil.Process(), 2)) - before
    assert len(waiting) >= 4  # two loaders, and what each has started
    start = time.monotonic()
    loaded.close()
    assert not psutil.wait_procs(waiting, timeout=20)[1] and time.monotonic() - start < 20


def test_one_shard_that_is_gone_does_not_speak_for_the_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine in ten draws are of it; they do not end the training."""
    gone = [f"{server.url}/plain/nowhere.tar"] * 30
    given = streams([*gone, f"{server.url}/plain/{FILES[2]}"])
    given.policy = RetryPolicy(timeout=1.0, retries=0, first_wait=0.0)
    monkeypatch.setattr("distill.data.streams.SHUFFLE_BUFFER", 16)
    before = server.requests[f"/plain/{FILES[2]}"]
    batches = taken(given, 8)
    assert server.requests[f"/plain/{FILES[2]}"] - before >= 4
    assert {one.shard for batch in batches for one in batch.bad} == {gone[0]}


def test_a_stream_that_is_busy_and_brings_nothing_is_given_up(tmp_path: Path) -> None:
    policy = RetryPolicy(timeout=5.0, retries=0, first_wait=0.01, sample_timeout=1.0)
    start = time.monotonic()
    header = tmp_path / "header"
    header.write_bytes(claiming(tarfile.REGTYPE, 1 << 30, "a.md"))
    with pytest.raises(BadSample, match="nothing of use came for 1 seconds"):
        list(read_samples(f"pipe:cat {header}; while true; do printf x; sleep 0.05; done", policy))
    path = write_tar(tmp_path / "a.tar", [(f"readme{i}.md", b"") for i in range(3)])
    command = f"head -c 1536 {path}"  # members without an end, and no sample among them
    with pytest.raises(BadSample, match="nothing of use came for 1 seconds"):
        list(read_samples(f"pipe:while true; do {command}; sleep 0.01; done", policy))
    assert time.monotonic() - start < 20


def test_a_streams_members_may_have_any_order_of_kinds(tmp_path: Path) -> None:
    image = encoded(picture("circle", "red", 1))
    members = [("a.txt", b"one"), ("a.PNG", image), ("a.txt", b"two"), ("note.md", b""), ("b.json", b"{}")]
    path = write_tar(tmp_path / "a.tar", members)
    first, second = read_samples(f"pipe:cat {path}", POLICY)
    assert (first.key, first.txt, first.image, first.json) == ("a", b"one", image, None)
    assert (second.key, second.json, second.image) == ("b", b"{}", None)
