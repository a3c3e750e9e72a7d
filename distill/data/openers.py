"""Sources of a stream's bytes: a web server, S3, a command. A source starts at a given byte if it can, else before it.

The library fsspec opens such addresses too, with aiohttp for http and s3fs for s3. It is not used, because a training
run reads streams for hours and needs what fsspec (read at version 2026.9) leaves to its caller:

- Going on after a failure. fsspec's HTTP files do not repeat a failed request, and its HTTP streams (``block_size=0``)
  cannot seek. Here and in ``remote.py`` reading goes on at the byte where the stream broke off. It ends with an error
  if the ETag, date, size or checksum shows that the file was replaced meanwhile; fsspec reports ETag and date, but
  does not compare them between requests.
- A limit on silence. The default limit of a request through fsspec, aiohttp's, is 5 minutes for the whole request. A
  stream takes longer than that. Here the limit is for the time without a byte.
- Credentials stay out of messages. fsspec's errors contain the whole URL, with the tokens that a signed URL carries.
  The errors here contain the server's answer only; ``without_secrets`` shortens the address that is printed with them.
- Ending child processes. A ``pipe:`` command, for which fsspec has no counterpart, and the ``aws`` command are child
  processes that end with the process that reads them.
"""

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

CHUNK = 1 << 16  # bytes read at once; more is slower, since tarfile copies the rest of a chunk with every member
# HTTP status codes below 500 after which the same request may succeed later: time-outs and too many requests.
TEMPORARY_STATUS = (408, 425, 429)
VERSION_HEADERS = ("ETag", "Last-Modified")  # HTTP headers that differ where a file's content does


class StreamFailed(Exception):
    """A stream cannot be read, and trying again does not help; the message is the reason, as part of a sentence."""


class Source(Protocol):
    """An open stream.

    Attributes:
        start: the offset in the file of the first byte it gives, which is the one asked for or an earlier one.
        version: what is known of the file's version, such as its size and ETag; if one of these values differs when
            the address is opened again, the file has been replaced.
    """

    start: int
    version: Mapping[str, str]

    def read(self) -> bytes:
        """The next bytes, at least one; b"" at the end of the file.

        Raises:
            OSError, http.client.HTTPException: for failures after which a new source may succeed.
            StreamFailed: for failures that would repeat.
        """

    def close(self) -> None:
        """Close the connection or end the command, at any point of the stream."""


class HTTPSource:
    """A file on a web server, by http or https.

    Args:
        address: the URL, with the user and password if it needs them.
        start: the byte to start at; a server without range requests starts at 0.
        timeout: seconds for which the server may send nothing.

    Raises:
        OSError, http.client.HTTPException: for failures after which a new source may succeed.
        StreamFailed: for failures that would repeat.
    """

    def __init__(self, address: str, start: int, timeout: float) -> None:
        try:
            self.response = urllib.request.urlopen(range_request(address, start), timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                if error.code >= 500 or error.code in TEMPORARY_STATUS:
                    raise ConnectionError(f"the server answered {error.code} {error.reason}") from error
                raise StreamFailed(f"the server answered {error.code} {error.reason}") from error
        except (ValueError, http.client.InvalidURL) as error:
            raise StreamFailed(str(error)) from error
        headers = self.response.headers
        self.start, total = 0, headers.get("Content-Length", "")
        end = total
        if self.response.status == 206:
            part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
            if part is None or int(part[1]) > start:
                raise StreamFailed("the server sends another part of it than it was asked for")
            self.start, total = int(part[1]), part[3]
            end = total if total.isdigit() else str(int(part[2]) + 1)
        self.position, self.end = self.start, int(end) if end.isdigit() else None
        values = {"bytes": total if total.isdigit() else ""}
        values |= {name: headers.get(name, "") for name in VERSION_HEADERS}
        self.version: Mapping[str, str] = {name: value for name, value in values.items() if value}

    def read(self) -> bytes:
        if self.position == self.end:
            return b""
        data = self.response.read1(CHUNK)
        self.position += len(data)
        if not data and self.end is not None:
            raise ConnectionError(f"the connection ended {self.end - self.position} bytes too early")
        return data

    def close(self) -> None:
        self.response.close()


def range_request(address: str, start: int) -> urllib.request.Request:
    """The request for a file from byte ``start`` on. User and password in the address become a header.

    Raises:
        ValueError: if the address is not a URL.
    """
    parts = urlsplit(address)
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))
    request.add_header("User-Agent", "distill")
    if start:
        request.add_header("Range", f"bytes={start}-")
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # Unredirected: not sent to another host if the server redirects there.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    return request


class CommandSource:
    """The standard output of a command, always from its first byte on. A status other than 0 at its end is a failure.

    Args:
        command: a list of arguments, or one string for a shell.
        timeout: seconds for which it may print nothing.
    """

    start: int = 0
    version: Mapping[str, str] = MappingProxyType({})

    def __init__(self, command: list[str] | str, timeout: float) -> None:
        self.timeout = timeout
        self.process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd="/",  # so that a command means the same on every host and from every folder
            start_new_session=True,
            preexec_fn=_prepare_child,
        )
        # Run also when the reading process ends. It kills the group: a shell that ends leaves its children running.
        self.kill = multiprocessing.util.Finalize(self, _kill_group, (self.process.pid,), exitpriority=1)
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
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        if self.process.stdout:
            self.process.stdout.close()


def _kill_group(leader: int) -> None:
    """Kill a process and everything it has started."""
    with contextlib.suppress(OSError):  # it has ended already, or belongs to another user
        os.killpg(leader, signal.SIGKILL)


def _prepare_child() -> None:
    """Run in the child before the command starts, so that the child ends with its parent.

    A loader process ignores SIGTERM, and a child would inherit that.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)


def open_s3(address: str, start: int, timeout: float) -> CommandSource:
    """Open an object in S3 by the command ``aws s3 cp``. No shell interprets the address; ``start`` is not used.

    Raises:
        StreamFailed: if the command is not installed.
    """
    if shutil.which("aws") is None:
        raise StreamFailed("AWS's command line, aws, is not installed")
    return CommandSource(["aws", "s3", "cp", "--only-show-errors", address, "-"], timeout)


def open_pipe(address: str, start: int, timeout: float) -> CommandSource:
    """Run the shell command after ``pipe:``; ``start`` is not used."""
    return CommandSource(address.removeprefix("pipe:"), timeout)


# For each scheme of an address: (address, first byte wanted, timeout in seconds) → an open source.
OPENERS: dict[str, Callable[[str, int, float], Source]] = {
    "http": HTTPSource,
    "https": HTTPSource,
    "s3": open_s3,
    "pipe": open_pipe,
}
