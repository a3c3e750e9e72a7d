"""A web server of files that stalls, cuts off and refuses as an address asks it to.

``/FAULT@BYTESxTIMES/FILE`` serves FILE, and the first TIMES requests for it go wrong after BYTES bytes:

- ``cut`` ends the connection;
- ``stall`` sends nothing more, and keeps the connection;
- ``500``, ``429`` and the like are answered with that status instead;
- ``replaced`` cuts, and has another content from then on, and another ETag; ``swapped`` has another date instead;
- ``aligned`` cuts, and sends parts that begin at multiples of 1,000 bytes;
- ``chunked`` cuts, and does not say beforehand how long the file is; ``star`` cuts, and says only that;

``locked/FILE`` is for the user "me" with the password "open sesame" alone, ``moved/FILE`` points to it, and
``plain/FILE`` serves it as it is. Under ``noranges/…`` all of that, but always from the first byte on.
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

FILES = ("train-000000.tar", "train-000001.tar", "train-000002.tar")  # what the fixture of conftest.py serves
POLICY = RetryPolicy(timeout=1.0, retries=3, first_wait=0.01)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        count = self.server.asked[self.path]
        ranges, path = not self.path.startswith("/noranges"), self.path.removeprefix("/noranges")
        asked = re.fullmatch(r"/(\w+)(?:@(\d+)x(\d+))?/([^/]+)", path)
        file = self.server.folder / asked[4] if asked else None
        if asked is None or file is None or not file.is_file():
            self.send_error(404)
            return
        if asked[1] == "moved":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/locked/{asked[4]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if asked[1] == "locked" and self.headers.get("Authorization") != "Basic bWU6b3BlbiBzZXNhbWU=":
            self.send_error(401)
            return
        fault, at, times = asked[1], int(asked[2] or 0), int(asked[3] or 0)
        wrong = count <= times
        if wrong and fault.isdigit():
            self.send_error(int(fault))
            return
        data = file.read_bytes()
        if fault in ("replaced", "swapped") and not wrong:
            data = data[::-1]
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if ranges else 0
        start -= start % 1000 if fault == "aligned" else 0
        self.send_response(206 if start else 200)
        if fault == "chunked" and wrong:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data) - start))
        if start:
            total = "*" if fault == "star" else len(data)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{total}")
        version = "first" if wrong or fault not in ("replaced", "swapped") else "second"
        self.send_header("Last-Modified" if fault == "swapped" else "ETag", version)
        self.end_headers()
        if fault == "chunked" and wrong:
            self.wfile.write(b"%x\r\n" % (len(data) - start))
        self.wfile.write(data[start : max(start, at)] if wrong else data[start:])
        if wrong and fault == "stall":
            self.wfile.flush()
            self.server.over.wait(60)
        self.close_connection = wrong

    def log_message(self, *words: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        folder: of the files.
        asked: how often each address has been asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.asked, self.over = folder, Counter[str](), threading.Event()

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
