"""Bytes of files that are far away: a real server that stalls, cuts off and refuses, and real commands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from faulty_server import FILES, POLICY, Server, serving

from distill.data.openers import StreamFailed
from distill.data.remote import RetryPolicy, Stream
from distill.data.shard_names import stream_addresses


def everything(address: str, policy: RetryPolicy = POLICY) -> bytes:
    stream = Stream(address, policy)
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
    with pytest.raises(StreamFailed, match=reason):
        everything(f"{server.url}/{path}")
    # What arrived before the first fault does not count as one.
    assert requests - 1 <= server.asked[f"/{path}"] <= requests


def test_a_password_in_an_address_is_for_its_host_alone(server: Server, folder: Path) -> None:
    url = server.url.replace("//", "//me:open%20sesame@")
    assert everything(f"{url}/locked/{FILES[1]}") == (folder / FILES[1]).read_bytes()
    for address in (f"{server.url}/locked/{FILES[1]}", f"{url}/moved/{FILES[1]}"):
        with pytest.raises(StreamFailed, match="401 Unauthorized"):
            everything(address)


def test_an_address_that_nobody_answers_is_given_up() -> None:
    with serving(Path()) as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(StreamFailed, match="refused, 4 times in a row"):
        everything(f"{url}/plain/a.tar")
    for nonsense in ("http://no host/a b.tar", "http://host:port/a.tar"):
        with pytest.raises(StreamFailed, match="^((?!in a row).)*$"):
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
    with pytest.raises(StreamFailed, match="the command ended with status 3, 4 times in a row"):
        everything("pipe:exit 3")
    for other in (f"head -c 9 {file}", f"tac {file}"):  # shorter, or otherwise not what it was
        flag.unlink()
        with pytest.raises(StreamFailed, match="it has been replaced while it was read"):
            everything(f"pipe:test -e {flag} || {{ touch {flag}; head -c 5000 {file}; exit 7; }}; {other}")
    with pytest.raises(StreamFailed, match="the command does not end within 1 seconds, 4 times in a row"):
        everything("pipe:exec >&-; sleep 60")
    # What runs is what stands there: only braces are expanded.
    assert stream_addresses([r"pipe:sed 's/\\n//' my\ file"]) == [r"pipe:sed 's/\\n//' my\ file"]
    assert stream_addresses(["pipe:cat /a/{0..1}.tar"]) == ["pipe:cat /a/0.tar", "pipe:cat /a/1.tar"]


def test_s3_goes_through_awss_command_and_no_shell(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command is not installed here: a program of that name stands in, which serves the folder."""
    with pytest.raises(StreamFailed, match="aws, is not installed"):
        monkeypatch.setenv("PATH", str(tmp_path))
        everything("s3://bucket/a.tar")
    stand_in = tmp_path / "aws"
    stand_in.write_text(f'#!/bin/sh\n/bin/echo "$@" >> {tmp_path}/words\n/bin/cat "{folder}/${{4##*/}}"\n')
    stand_in.chmod(0o755)
    assert everything(f"s3://bucket/$(touch {tmp_path}/bad)/{FILES[1]}") == (folder / FILES[1]).read_bytes()
    assert (tmp_path / "words").read_text().startswith("s3 cp --only-show-errors s3://bucket/$(touch ")
    assert not (tmp_path / "bad").exists()
