"""Remote streams against a real server that stalls, cuts off and refuses, and against real commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch
from conftest import (
    SCRATCH,
    distill,
    encoded,
    lines_of,
    losses_of,
    metrics,
    picture,
    sample,
    wait_for_step,
    write_shards,
    write_tar,
)
from faulty_server import Server, serving

from distill.data.batch import Batch
from distill.data.captions import Captions, Tokenizer
from distill.data.loading import batches
from distill.data.remote import Lost, Patience, Stream
from distill.data.shards import Shards
from distill.data.specs import addresses, shown
from distill.data.streams import Streams, samples
from distill.data.transform import Drawing, Transform
from distill.data.views import Views
from distill.errors import BadSample, UserError

PATIENCE = Patience(timeout=1.0, retries=3, wait=0.01)
SCRIPT = Path(sys.executable).with_name("distill")
FILES = ("train-000000.tar", "train-000001.tar", "train-000002.tar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    write_shards(folder, (40, 24, 16))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


def everything(address: str, patience: Patience = PATIENCE) -> bytes:
    stream = Stream(address, patience)
    try:
        return b"".join(iter(stream.read, b""))
    finally:
        stream.close()


@pytest.mark.parametrize("ranges", ["", "/noranges"])
@pytest.mark.parametrize(
    "fault",
    [
        "plain",
        "cut@0x1",
        "cut@5000x3",
        "cut@12345x2",
        "stall@0x1",
        "stall@20000x1",
        "500@0x3",
        "503@0x1",
        "429@0x2",
        "aligned@70123x1",
        "chunked@5000x2",
        "star@5000x2",
    ],
)
def test_a_stream_goes_on_where_it_was(server: Server, folder: Path, fault: str, ranges: str) -> None:
    address = f"{server.url}{ranges}/{fault}/{FILES[0]}"
    assert everything(address) == (folder / FILES[0]).read_bytes()
    faults = int(fault.rpartition("x")[2]) if "@" in fault else 0
    assert server.asked[f"{ranges}/{fault}/{FILES[0]}"] == faults + 1


@pytest.mark.parametrize(
    "path, reason, requests",
    [
        (f"cut@5000x9/{FILES[0]}", "the connection ended .* bytes too early, 4 times in a row", 5),
        (f"stall@5000x9/{FILES[0]}", "timed out, 4 times in a row", 5),
        (f"503@0x9/{FILES[1]}", "the server answered 503 .*, 4 times in a row", 4),
        ("plain/nowhere.tar", "the server answered 404 Not Found$", 1),
        (f"403@0x9/{FILES[0]}", "the server answered 403 Forbidden$", 1),
        (f"replaced@5000x1/{FILES[0]}", "it has been replaced while it was read", 2),
        (f"swapped@5000x1/{FILES[0]}", "it has been replaced while it was read", 2),
    ],
)
def test_a_stream_that_cannot_be_read_says_why(server: Server, path: str, reason: str, requests: int) -> None:
    with pytest.raises(Lost, match=reason):
        everything(f"{server.url}/{path}")
    # What arrived before the first fault does not count as one.
    assert requests - 1 <= server.asked[f"/{path}"] <= requests


def test_a_password_in_an_address_is_for_its_host_alone(server: Server, folder: Path) -> None:
    url = server.url.replace("//", "//me:open%20sesame@")
    assert everything(f"{url}/locked/{FILES[1]}") == (folder / FILES[1]).read_bytes()
    for address in (f"{server.url}/locked/{FILES[1]}", f"{url}/moved/{FILES[1]}"):
        with pytest.raises(Lost, match="401 Unauthorized"):
            everything(address)


def test_an_address_that_nobody_answers_is_given_up() -> None:
    with serving(Path()) as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(Lost, match="refused, 4 times in a row"):
        everything(f"{url}/plain/a.tar")
    for nonsense in ("http://no host/a b.tar", "http://host:port/a.tar"):
        with pytest.raises(Lost, match="^((?!in a row).)*$"):
            everything(nonsense)
    assert time.monotonic() - start < 30


def test_what_a_command_prints_is_a_stream(folder: Path, tmp_path: Path) -> None:
    file, flag = folder / FILES[0], tmp_path / "flag"
    assert everything(f"pipe:cat {file}") == file.read_bytes()
    fails_once = f"pipe:test -e {flag} || {{ touch {flag}; head -c 5000 {file}; exit 7; }}; cat {file}"
    assert everything(fails_once) == file.read_bytes()
    flag.unlink()
    stalls_once = f"pipe:test -e {flag} || {{ touch {flag}; head -c 5000 {file}; sleep 60; }}; cat {file}"
    assert everything(stalls_once) == file.read_bytes()
    with pytest.raises(Lost, match="the command ended with status 3, 4 times in a row"):
        everything("pipe:exit 3")
    for other in (f"head -c 9 {file}", f"tac {file}"):  # shorter, or otherwise not what it was
        flag.unlink()
        with pytest.raises(Lost, match="it has been replaced while it was read"):
            everything(f"pipe:test -e {flag} || {{ touch {flag}; head -c 5000 {file}; exit 7; }}; {other}")
    with pytest.raises(Lost, match="the command does not end within 1 seconds, 4 times in a row"):
        everything("pipe:exec >&-; sleep 60")
    # What runs is what stands there: only braces are expanded.
    assert addresses([r"pipe:sed 's/\\n//' my\ file"]) == [r"pipe:sed 's/\\n//' my\ file"]
    assert addresses(["pipe:cat /a/{0..1}.tar"]) == ["pipe:cat /a/0.tar", "pipe:cat /a/1.tar"]


def test_s3_goes_through_awss_command_and_no_shell(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command is not installed here: a program of that name stands in, which serves the folder."""
    with pytest.raises(Lost, match="aws, is not installed"):
        monkeypatch.setenv("PATH", str(tmp_path))
        everything("s3://bucket/a.tar")
    stand_in = tmp_path / "aws"
    stand_in.write_text(f'#!/bin/sh\n/bin/echo "$@" >> {tmp_path}/words\n/bin/cat "{folder}/${{4##*/}}"\n')
    stand_in.chmod(0o755)
    assert everything(f"s3://bucket/$(touch {tmp_path}/bad)/{FILES[1]}") == (folder / FILES[1]).read_bytes()
    assert (tmp_path / "words").read_text().startswith("s3 cp --only-show-errors s3://bucket/$(touch ")
    assert not (tmp_path / "bad").exists()


def test_a_streams_samples_are_those_of_the_addressed_shard(server: Server, folder: Path) -> None:
    for fault in ("plain", "cut@30000x2"):
        opened = Shards.of([str(folder / FILES[1])])
        found = list(samples(f"{server.url}/{fault}/{FILES[1]}", PATIENCE))
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
            list(samples(f"pipe:cat {path}", PATIENCE))
        assert caught.value.bad.key == "" and caught.value.bad.reason.startswith(reason), path
    assert len(list(samples(f"pipe:cat {tmp_path}/whole.tar /dev/zero", PATIENCE))) == 4  # what follows is not read


def streams(places: list[str], size: int = 8, seed: tuple[int, ...] = (0, 0, 0), pieces: int = 1) -> Streams:
    tokenizer = Tokenizer.train(["a red circle", "ein Kreis, rot", "a blue square"], 50, 8)
    transform = Transform(tokenizer, [], Drawing(Captions(), Views((0.5, 1.0), True), side=16, seed=1))
    return Streams(places, PATIENCE, transform, size, seed, pieces)


def taken(given: Streams, count: int, workers: int = 0) -> list[Batch]:
    return [piece for (piece,) in islice(batches(given, workers, False), count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_bring_every_sample_and_none_twice_in_a_batch(server: Server, workers: int) -> None:
    places = addresses([f"{server.url}/plain/train-{{000000..000002}}.tar"])
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
    pieces = list(islice(batches(streams(places, size=16, pieces=4), 0, False), 20))
    assert all(len(set(batch.keys)) == 16 for batch in whole)
    for batch, parts in zip(whole, pieces, strict=True):
        assert [len(part.keys) for part in parts] == [4] * 4
        assert sum((part.keys for part in parts), ()) == batch.keys
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


def stalling(folder: Path, flag: Path) -> str:
    """A command that stalls in the middle of a shard once there is a flag."""
    file = folder / FILES[0]
    return f"pipe:if test -e {flag}; then head -c 30000 {file}; sleep 987; else cat {file}; fi"


def stalled(process: psutil.Process, count: int) -> list[psutil.Process]:
    """Everything below a process, when so many commands in it have stalled."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        below = process.children(recursive=True)
        with suppress(psutil.Error):
            if sum(child.name() == "sleep" for child in below) == count:
                return below
        time.sleep(0.1)
    raise AssertionError("nothing stalls")


def test_loaders_and_commands_end_with_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that wait for a command which prints nothing any more."""
    monkeypatch.setattr("distill.data.streams.MIXED", 1)  # or there would be no batch before the command stalls
    (tmp_path / "flag").touch()
    before = set(psutil.Process().children(recursive=True))
    given = streams([stalling(folder, tmp_path / "flag")], size=2)
    given.patience = Patience(timeout=600.0)
    loaded = batches(given, 2, False)
    next(loaded)
    waiting = set(stalled(psutil.Process(), 2)) - before
    assert len(waiting) >= 4  # two loaders, and what each has started
    start = time.monotonic()
    loaded.close()
    assert not psutil.wait_procs(waiting, timeout=20)[1] and time.monotonic() - start < 20


@pytest.mark.parametrize("shell", [[], ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]], ids=["", "deaf to SIGINT"])
def test_loaders_and_commands_end_with_a_training_that_is_killed(
    recipe: Path, tmp_path: Path, folder: Path, shell: list[str]
) -> None:
    """Whoever has started it: a script's background jobs ignore SIGINT."""
    flag, run = tmp_path / "flag", tmp_path / "run"
    words = [*settings(f"data.train={json.dumps(stalling(folder, flag))}", "data.workers=2", "data.timeout=600")]
    words += ["--set", "train.steps=100000", "--allow-pipe", "--out", str(run)]
    process = subprocess.Popen([*shell, SCRIPT, "train", str(recipe), *words], stderr=subprocess.DEVNULL)
    wait_for_step(run, 3, process)
    flag.touch()
    waiting = stalled(psutil.Process(process.pid), 2)
    process.kill()
    process.wait()
    assert len(waiting) >= 4 and not psutil.wait_procs(waiting, timeout=20)[1]


def settings(*given: str) -> list[str]:
    """Those of a recipe without a teacher, and more."""
    return [*SCRATCH, *(word for one in ("data.timeout=2", *given) for word in ("--set", one))]


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_run_trains_on_faulty_streams_and_goes_on(recipe: Path, tmp_path: Path, server: Server, nproc: int) -> None:
    """A stall, a cut and a refusal on the way, and one shard that does not exist."""
    places = [f"{server.url}/{fault}" for fault in ("stall@9000x1", "cut@40000x2", "500@0x1", "plain")]
    train = [f"{place}/{name}" for place, name in zip(places, [*FILES, "nowhere.tar"], strict=True)]
    words = [*settings(f"data.train={json.dumps(train)}", "data.workers=1"), "--nproc", nproc]
    first = distill("train", recipe, "--out", tmp_path / "run", *words, "--set", "data.bad_samples=1")
    assert "Training on 4 streams" in first.stderr and "exact in everything but which samples" in first.stderr
    assert len(losses_of(tmp_path / "run")) == 6
    (noted,) = lines_of(tmp_path / "run/bad-samples.jsonl")
    assert noted["shard"].endswith("nowhere.tar") and "404" in noted["reason"]
    # The last checkpoint is damaged: three steps are taken anew, on samples that are drawn anew.
    before = [line["samples"] for line in metrics(tmp_path / "run")]
    (tmp_path / "run/checkpoints/step-00000006/state.safetensors").write_bytes(b"")
    again = distill("train", recipe, "--out", tmp_path / "run", *words, "--set", "data.bad_samples=1", "--resume")
    assert "is damaged" in again.stderr
    after = [line["samples"] for line in metrics(tmp_path / "run")]
    assert len(after) == 6 and after[:3] == before[:3] and after[3:] != before[3:]
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert "| 96 images, drawn from streams, to step-00000006 |" in (tmp_path / "export/README.md").read_text()
    strict = distill("train", recipe, "--out", tmp_path / "strict", *words, "--set", "data.bad_samples=0", status=2)
    assert "1 bad samples are more than the 0 that data.bad_samples allows" in strict.stderr


def test_shards_that_are_not_there_count_before_training_too(recipe: Path, tmp_path: Path, server: Server) -> None:
    train = json.dumps([f"{server.url}/plain/{name}" for name in ("nowhere.tar", FILES[0])])
    words = settings(f"data.train={train}", "data.bad_samples=0")
    said = distill("train", recipe, "--out", tmp_path / "run", *words, status=2).stderr
    assert "1 bad samples are more than the 0" in said and "(before training)" in said
    assert not (tmp_path / "run").exists()


def test_what_may_be_secret_in_an_address_does_not_ship(
    recipe: Path, tmp_path: Path, server: Server, folder: Path
) -> None:
    secret = f"pipe:echo sesame >&2; cat {folder / FILES[0]}"
    shut = server.url.replace("//", "//user:sesame@") + "/plain/nowhere.tar?key=sesame"
    words = settings(f"data.train={json.dumps([shut, secret])}", "data.bad_samples=1", "train.steps=2")
    distill("train", recipe, "--out", tmp_path / "run", *words, "--allow-pipe")
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert "sesame" in (tmp_path / "run/recipe.toml").read_text()
    told = json.loads((tmp_path / "export/config.json").read_text())["provenance"]["recipe"]["data"]["train"]
    assert told == [shown(shut), shown(secret)]
    (noted,) = lines_of(tmp_path / "run/bad-samples.jsonl")
    assert noted["shard"] == told[0] and told[0].startswith(f"{server.url}/plain/nowhere.tar (")
    others = [path for path in (tmp_path / "run", tmp_path / "export") for path in path.rglob("*") if path.is_file()]
    assert {path.name for path in others if b"sesame" in path.read_bytes()} == {"recipe.toml"}
    assert told[1].startswith("pipe:echo (") and shown("s3://bucket/a.tar") == "s3://bucket/a.tar"


def test_one_shard_that_is_gone_does_not_speak_for_the_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine in ten draws are of it; they do not end the training."""
    gone = [f"{server.url}/plain/nowhere.tar"] * 30
    given = streams([*gone, f"{server.url}/plain/{FILES[2]}"])
    given.patience = Patience(timeout=1.0, retries=0, wait=0.0)
    monkeypatch.setattr("distill.data.streams.MIXED", 16)
    before = server.asked[f"/plain/{FILES[2]}"]
    batches = taken(given, 8)
    assert server.asked[f"/plain/{FILES[2]}"] - before >= 4
    assert {one.shard for batch in batches for one in batch.bad} == {gone[0]}


def test_a_stream_that_is_busy_and_brings_nothing_is_given_up(tmp_path: Path) -> None:
    patience = Patience(timeout=5.0, retries=0, wait=0.01, fruitless=1.0)
    start = time.monotonic()
    header = tmp_path / "header"
    header.write_bytes(claiming(tarfile.REGTYPE, 1 << 30, "a.md"))
    with pytest.raises(BadSample, match="nothing of use came for 1 seconds"):
        list(samples(f"pipe:cat {header}; while true; do printf x; sleep 0.05; done", patience))
    path = write_tar(tmp_path / "a.tar", [(f"readme{i}.md", b"") for i in range(3)])
    command = f"head -c 1536 {path}"  # members without an end, and no sample among them
    with pytest.raises(BadSample, match="nothing of use came for 1 seconds"):
        list(samples(f"pipe:while true; do {command}; sleep 0.01; done", patience))
    assert time.monotonic() - start < 20


def test_three_towers_train_on_streams_in_micro_batches(recipe: Path, tmp_path: Path, server: Server) -> None:
    words = ["--set", "teacher.0.cache=none", "--set", "train.micro_batch=4", "--set", "train.steps=3"]
    words += ["--set", f"data.train={server.url}/plain/train-{{000000..000002}}.tar"]
    distill("train", recipe, "--out", tmp_path / "run", *words)
    assert len(losses_of(tmp_path / "run")) == 3
    assert json.loads((tmp_path / "run/run.json").read_text())["shards"] == 3


def test_a_recipe_runs_no_command_that_is_not_allowed(recipe: Path, tmp_path: Path, folder: Path) -> None:
    flag = tmp_path / "ran"
    harmful = f"pipe:touch {flag}; cat {folder / FILES[0]}"
    for train in (harmful, f"{{http://127.0.0.1:9/a.tar,{harmful}}}"):
        words = settings(f"data.train={json.dumps(train)}")
        refused = distill("train", recipe, "--out", tmp_path / "run", *words, status=2).stderr
        assert "The recipe runs a command: pipe:touch" in refused and "--allow-pipe" in refused
        assert not flag.exists() and not (tmp_path / "run").exists()
    words = settings(f"data.train={json.dumps(harmful)}")
    distill("train", recipe, "--out", tmp_path / "run", *words, "--allow-pipe")
    assert flag.exists() and len(losses_of(tmp_path / "run")) == 6
    # Nor does a run from elsewhere, when it is resumed.
    os.rename(tmp_path / "run/checkpoints/step-00000006", tmp_path / "away")
    flag.unlink()
    again = ("train", tmp_path / "run/recipe.toml", "--out", tmp_path / "run", "--resume")
    assert "runs a command" in distill(*again, status=2).stderr and not flag.exists()


@pytest.mark.parametrize(
    "given, words",
    [
        (["data.train={http://host/a.tar,pipe}"], "'pipe' is no stream that can be read"),
        (["data.train=ftp://host/a.tar"], "no stream that can be read"),
        (["data.train=htp://host/a.tar"], "Did you mean 'http'?"),
        (['data.train=["https://host/a.tar","shards"]'], "is no stream that can be read"),
        (["data.train=https://host/a.tar", "train.epochs=3"], "streams have no epochs"),
        (['data.train=["http://host/a.tar","http://host/a.tar"]'], "named twice"),
        (
            ["data.train=http://127.0.0.1:9/a.tar", "data.retries=0", "data.bad_samples=5"],
            "1 streams in a row could not be read.*refused",
        ),
        (["data.train=https://host/a.tar", "data.timeout=0"], "'data.timeout' does not check out"),
        (["data.train=https://host/a.tar", "data.timeout=inf"], "'data.timeout' does not check out"),
    ],
)
def test_streams_that_make_no_sense_are_refused(recipe: Path, tmp_path: Path, given: list[str], words: str) -> None:
    said = distill("train", recipe, "--out", tmp_path / "run", *settings(*given), status=2).stderr
    assert re.search(words, said), said
    assert not (tmp_path / "run").exists() and "Traceback" not in said


def test_only_training_reads_streams(recipe: Path, tmp_path: Path, server: Server) -> None:
    address = f"{server.url}/plain/{FILES[0]}"
    for words in (("data", "check", address), ("data", "index", address)):
        assert "is a remote stream" in distill(*words, status=2).stderr
    assert (
        "has a cache, and data.train are streams"
        in distill("train", recipe, "--out", tmp_path / "run", "--set", f"data.train={address}", status=2).stderr
    )


def test_a_streams_members_may_have_any_order_of_kinds(tmp_path: Path) -> None:
    image = encoded(picture("circle", "red", 1))
    members = [("a.txt", b"one"), ("a.PNG", image), ("a.txt", b"two"), ("note.md", b""), ("b.json", b"{}")]
    path = write_tar(tmp_path / "a.tar", members)
    first, second = samples(f"pipe:cat {path}", PATIENCE)
    assert (first.key, first.txt, first.image, first.json) == ("a", b"one", image, None)
    assert (second.key, second.json, second.image) == ("b", b"{}", None)
