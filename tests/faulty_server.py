"""A file server that stalls, disconnects or answers with an error, as specified in the requested address.

For ``/FAULT@BYTESxTIMES/FILE`` it serves FILE, but the first TIMES requests fail after BYTES bytes:

- ``cut`` closes the connection;
- ``stall`` sends nothing more, and keeps the connection open;
- ``500``, ``429`` and other numbers: the response has that status and no content;
- ``replaced`` closes the connection, and later responses have other content and another ETag; with ``swapped`` they
  have other content and another Last-Modified;
- ``aligned`` closes the connection, and rounds the start of a requested range down to a multiple of 1,000 bytes;
- ``chunked`` closes the connection, and the failing response does not state its length; ``star`` closes the
  connection, and Content-Range has "*" for the length of the file.

``locked/FILE`` requires the user "me" with the password "open sesame", ``moved/FILE`` redirects to it, and
``plain/FILE`` serves the file without a fault. Below ``noranges/…`` the same, but Range headers are ignored.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from distill.data.remote import RetryPolicy

FILES = ("train-000000.tar", "train-000001.tar", "train-000002.tar")  # served by the fixture `server` of conftest.py
POLICY = RetryPolicy(timeout=1.0, retries=3, first_wait=0.01)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        count = self.server.requests[self.path]
        ranges, path = not self.path.startswith("/noranges"), self.path.removeprefix("/noranges")
        request = re.fullmatch(r"/(\w+)(?:@(\d+)x(\d+))?/([^/]+)", path)
        file = self.server.folder / request[4] if request else None
        if request is None or file is None or not file.is_file():
            self.send_error(404)
            return
        if request[1] == "moved":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/locked/{request[4]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if request[1] == "locked" and self.headers.get("Authorization") != "Basic bWU6b3BlbiBzZXNhbWU=":
            self.send_error(401)
            return
        fault, at, times = request[1], int(request[2] or 0), int(request[3] or 0)
        failing = count <= times
        if failing and fault.isdigit():
            self.send_error(int(fault))
            return
        data = file.read_bytes()
        if fault in ("replaced", "swapped") and not failing:
            data = data[::-1]
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if ranges else 0
        start -= start % 1000 if fault == "aligned" else 0
        self.send_response(206 if start else 200)
        if fault == "chunked" and failing:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data) - start))
        if start:
            total = "*" if fault == "star" else len(data)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{total}")
        version = "first" if failing or fault not in ("replaced", "swapped") else "second"
        self.send_header("Last-Modified" if fault == "swapped" else "ETag", version)
        self.end_headers()
        if fault == "chunked" and failing:
            self.wfile.write(b"%x\r\n" % (len(data) - start))
        self.wfile.write(data[start : max(start, at)] if failing else data[start:])
        if failing and fault == "stall":
            self.wfile.flush()
            self.server.over.wait(60)
        self.close_connection = failing

    def log_message(self, *words: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        folder: the folder of the served files.
        requests: how often each path has been requested.
        over: set when the server shuts down.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.requests, self.over = folder, Counter[str](), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *words: Any) -> None:
        pass  # clients hang up


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def stalling(folder: Path, flag: Path) -> str:
    """A command that prints a shard, and stalls in the middle of it if the file ``flag`` exists."""
    file = folder / FILES[0]
    return f"pipe:if test -e {flag}; then head -c 30000 {file}; sleep 987; else cat {file}; fi"


def stalled(process: psutil.Process, count: int) -> list[psutil.Process]:
    """Wait until ``count`` commands started below a process have stalled; return all its descendants."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        below = process.children(recursive=True)
        with suppress(psutil.Error):
            if sum(child.name() == "sleep" for child in below) == count:
                return below
        time.sleep(0.1)
    raise AssertionError("nothing stalls")
