"""Reading remote files: from a real server that stalls, disconnects and answers errors, and from real commands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from faulty_server import FILES, POLICY, Server, serving

from distill.data.openers import StreamFailed
from distill.data.remote import RetryPolicy, Stream
from distill.data.shard_names import stream_addresses


def read_all(address: str, policy: RetryPolicy = POLICY) -> bytes:
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
def test_a_stream_resumes_at_the_byte_where_it_was_interrupted(
    server: Server, folder: Path, fault: str, ranges: str
) -> None:
    address = f"{server.url}{ranges}/{fault}/{FILES[0]}"
    assert read_all(address) == (folder / FILES[0]).read_bytes()
    faults = int(fault.rpartition("x")[2]) if "@" in fault else 0
    assert server.requests[f"{ranges}/{fault}/{FILES[0]}"] == faults + 1


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
def test_the_error_of_an_unreadable_stream_gives_the_reason(
    server: Server, path: str, reason: str, requests: int
) -> None:
    with pytest.raises(StreamFailed, match=reason):
        read_all(f"{server.url}/{path}")
    # Bytes that arrived before the first fault reset the count of failed attempts.
    assert requests - 1 <= server.requests[f"/{path}"] <= requests


def test_a_password_in_an_address_is_sent_only_to_that_address(server: Server, folder: Path) -> None:
    url = server.url.replace("//", "//me:open%20sesame@")
    assert read_all(f"{url}/locked/{FILES[1]}") == (folder / FILES[1]).read_bytes()
    for address in (f"{server.url}/locked/{FILES[1]}", f"{url}/moved/{FILES[1]}"):
        with pytest.raises(StreamFailed, match="401 Unauthorized"):
            read_all(address)


def test_an_unreachable_or_malformed_address_fails_soon() -> None:
    with serving(Path()) as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(StreamFailed, match="refused, 4 times in a row"):
        read_all(f"{url}/plain/a.tar")
    for malformed in ("http://no host/a b.tar", "http://host:port/a.tar"):
        with pytest.raises(StreamFailed, match="^((?!in a row).)*$"):
            read_all(malformed)
    assert time.monotonic() - start < 30


def test_the_output_of_a_command_is_read_as_a_stream(folder: Path, tmp_path: Path) -> None:
    file, flag = folder / FILES[0], tmp_path / "flag"
    assert read_all(f"pipe:cat {file}") == file.read_bytes()
    fails_once = f"pipe:test -e {flag} || {{ touch {flag}; head -c 5000 {file}; exit 7; }}; cat {file}"
    assert read_all(fails_once) == file.read_bytes()
    flag.unlink()
    stalls_once = f"pipe:test -e {flag} || {{ touch {flag}; head -c 5000 {file}; sleep 60; }}; cat {file}"
    assert read_all(stalls_once) == file.read_bytes()
    with pytest.raises(StreamFailed, match="the command ended with status 3, 4 times in a row"):
        read_all("pipe:exit 3")
    for other in (f"head -c 9 {file}", f"tac {file}"):  # the second run prints less, or other bytes
        flag.unlink()
        with pytest.raises(StreamFailed, match="it has been replaced while it was read"):
            read_all(f"pipe:test -e {flag} || {{ touch {flag}; head -c 5000 {file}; exit 7; }}; {other}")
    with pytest.raises(StreamFailed, match="the command does not end within 1 seconds, 4 times in a row"):
        read_all("pipe:exec >&-; sleep 60")
    # The command is run as written, except that braces are expanded.
    assert stream_addresses([r"pipe:sed 's/\\n//' my\ file"]) == [r"pipe:sed 's/\\n//' my\ file"]
    assert stream_addresses(["pipe:cat /a/{0..1}.tar"]) == ["pipe:cat /a/0.tar", "pipe:cat /a/1.tar"]


def test_s3_addresses_are_read_with_the_aws_command_and_without_a_shell(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The AWS command line is not installed here: a script of the same name serves the folder instead."""
    with pytest.raises(StreamFailed, match="aws, is not installed"):
        monkeypatch.setenv("PATH", str(tmp_path))
        read_all("s3://bucket/a.tar")
    stand_in = tmp_path / "aws"
    stand_in.write_text(f'#!/bin/sh\n/bin/echo "$@" >> {tmp_path}/words\n/bin/cat "{folder}/${{4##*/}}"\n')
    stand_in.chmod(0o755)
    assert read_all(f"s3://bucket/$(touch {tmp_path}/bad)/{FILES[1]}") == (folder / FILES[1]).read_bytes()
    assert (tmp_path / "words").read_text().startswith("s3 cp --only-show-errors s3://bucket/$(touch ")
    assert not (tmp_path / "bad").exists()
