"""What opens a stream: a web server, S3, a command. Each gives bytes, from where it is asked to if it can."""

from __future__ import annotations

import base64
import contextlib
import http.client
import multiprocessing.util
import os
import re
import select
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from launch.process import end_with_parent

CHUNK = 1 << 16  # bytes; tarfile copies what it has of one with every member
# Of HTTP's status codes those that may be another one soon: time-outs and too many requests; and all from 500 on.
PASSING = (408, 425, 429)
VERSIONED = ("ETag", "Last-Modified")  # of HTTP's headers those that another content changes


class Lost(Exception):
    """A stream that cannot be read: why, as half a sentence."""


class Source(Protocol):
    """An open stream.

    Attributes:
        start: the byte of the file at which it starts: the one asked for, or one before it.
        version: by which another content under the same address shows: what is known of it.
    """

    start: int
    version: Mapping[str, str]

    def read(self) -> bytes:
        """The next bytes, at least one of them; b"" at its end.

        Raises:
            OSError, http.client.HTTPException: for what may go better another time.
            Lost: for what will not.
        """

    def close(self) -> None:
        """Let go of it, wherever it is."""


class Web:
    """A file behind http or https."""

    def __init__(self, address: str, at: int, timeout: float) -> None:
        try:
            self.response = urllib.request.urlopen(request_of(address, at), timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                if error.code >= 500 or error.code in PASSING:
                    raise ConnectionError(f"the server answered {error.code} {error.reason}") from error
                raise Lost(f"the server answered {error.code} {error.reason}") from error
        except (ValueError, http.client.InvalidURL) as error:
            raise Lost(str(error)) from error
        said = self.response.headers
        self.start, total = 0, said.get("Content-Length", "")
        end = total
        if self.response.status == 206:
            part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said.get("Content-Range", ""))
            if part is None or int(part[1]) > at:
                raise Lost("the server sends another part of it than it was asked for")
            self.start, total = int(part[1]), part[3]
            end = total if total.isdigit() else str(int(part[2]) + 1)
        self.at, self.end = self.start, int(end) if end.isdigit() else None
        known = {"bytes": total if total.isdigit() else "", **{name: said.get(name, "") for name in VERSIONED}}
        self.version: Mapping[str, str] = {name: value for name, value in known.items() if value}

    def read(self) -> bytes:
        if self.at == self.end:
            return b""
        data = self.response.read1(CHUNK)
        self.at += len(data)
        if not data and self.end is not None:
            raise ConnectionError(f"the connection ended {self.end - self.at} bytes too early")
        return data

    def close(self) -> None:
        self.response.close()


def request_of(address: str, at: int) -> urllib.request.Request:
    """For a file from a byte on, with the user and password that stand in its address.

    Raises:
        ValueError: if it is no address.
    """
    parts = urlsplit(address)
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
    request.add_header("User-Agent", "distill")
    if at:
        request.add_header("Range", f"bytes={at}-")
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # Not for another host that the first one points to.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    return request


class Command:
    """What a command prints; it has to end with status 0."""

    start: int = 0
    version: Mapping[str, str] = MappingProxyType({})

    def __init__(self, command: list[str] | str, timeout: float) -> None:
        self.timeout = timeout
        self.process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd="/",  # the same on every host, whoever starts it
            start_new_session=True,
            preexec_fn=_start,
        )
        # Also when the reader is told to end: a shell does not end what it has started.
        self.end = multiprocessing.util.Finalize(self, _kill_group, (self.process.pid,), exitpriority=1)
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        self.poll = select.poll()
        self.poll.register(self.output, select.POLLIN)

    def read(self) -> bytes:
        if not self.poll.poll(1000 * self.timeout):
            raise TimeoutError(f"the command printed nothing for {self.timeout:g} seconds")
        data = os.read(self.output, CHUNK)
        if not data:
            try:
                status = self.process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"the command does not end within {self.timeout:g} seconds") from None
            if status:
                raise ConnectionError(f"the command ended with status {status}")
        return data

    def close(self) -> None:
        self.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        if self.process.stdout:
            self.process.stdout.close()


def _kill_group(leader: int) -> None:
    """End a process and all that it has started."""
    with contextlib.suppress(OSError):  # it has gone, or is another user's
        os.killpg(leader, signal.SIGKILL)


def _start() -> None:
    """In a new process, before its program starts: to end with the one that reads it, whatever that one ignores."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)


def s3(address: str, at: int, timeout: float) -> Command:
    """An object in S3, through AWS's own command; no shell reads the address."""
    if shutil.which("aws") is None:
        raise Lost("AWS's command line, aws, is not installed")
    return Command(["aws", "s3", "cp", "--only-show-errors", address, "-"], timeout)


def pipe(address: str, at: int, timeout: float) -> Command:
    """What a shell command prints."""
    return Command(address.removeprefix("pipe:"), timeout)


OPENERS: dict[str, Callable[[str, int, float], Source]] = {"http": Web, "https": Web, "s3": s3, "pipe": pipe}
