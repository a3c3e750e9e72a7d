"""Files that are far away, read as streams.

A stream that stalls, is cut off or is refused for the moment goes on where it was, after a while; one that cannot be
read at all says why.
"""

from __future__ import annotations

import http.client
import random
import time
import zlib
from dataclasses import dataclass

from distill.data.openers import CHUNK, OPENERS, Lost, Source
from distill.data.shard_names import scheme_of

LONGEST_WAIT = 60.0  # seconds
MOST_DOUBLINGS = 10  # of a wait, which has a bound of its own
FORGIVEN = 1 << 16  # bytes that have to arrive after a fault before it no longer counts
REPLACED = "it has been replaced while it was read"


@dataclass(frozen=True)
class Patience:
    """What is put up with.

    Attributes:
        timeout: seconds for which a stream may send nothing.
        retries: faults in a row after which a stream is given up.
        wait: seconds before the first attempt to go on; twice as many before each further one.
        fruitless: seconds for which nothing of use may come, however busy a stream is.
    """

    timeout: float = 60.0
    retries: int = 5
    wait: float = 1.0
    fruitless: float = 900.0

    def pause(self, faults: int) -> None:
        """Wait after so many faults in a row; not all processes for the same time."""
        wait = self.wait * 2 ** min(faults - 1, MOST_DOUBLINGS)
        time.sleep(min(LONGEST_WAIT, wait) * random.uniform(0.5, 1.0))


class Stream:
    """The bytes behind an address, in order, whatever happens on the way.

    Args:
        address: see :data:`OPENERS`.
        patience: with faults.

    Attributes:
        at: how many bytes have been read.
        since: when something of use came last, in seconds of ``time.monotonic``; whoever reads sets it.
    """

    def __init__(self, address: str, patience: Patience) -> None:
        self.address, self.patience = address, patience
        self.source: Source | None = None
        self.version: dict[str, str] = {}
        self.since = time.monotonic()
        self.at = self.behind = self.faults = self.last_fault = 0
        self.sum = self.sum_again = 0  # of what has been read, and of the same read once more

    def read(self, size: int = CHUNK) -> bytes:
        """The next bytes, as many as there are at once, whatever the ``size``; b"" at the end.

        Raises:
            Lost: if the stream cannot go on.
        """
        while True:
            if time.monotonic() - self.since > self.patience.fruitless:
                raise Lost(f"nothing of use came for {self.patience.fruitless:g} seconds")
            try:
                data = self._next()
            except (OSError, http.client.HTTPException) as error:
                self._wait(error)
            else:
                self.at += len(data)
                self.sum = zlib.crc32(data, self.sum)
                return data

    def close(self) -> None:
        """Let go of it."""
        if self.source is not None:
            self.source.close()
            self.source = None

    def _next(self) -> bytes:
        """What comes next, the stream opened if it is not, and without what has been read before."""
        if self.source is None:
            opener = OPENERS[scheme_of(self.address)]
            self.source = opener(self.address, self.at, self.patience.timeout)
            self.behind, self.sum_again = self.at - self.source.start, 0
            before, self.version = self.version, {**self.version, **self.source.version}
            if any(self.version[name] != value for name, value in before.items()):
                raise Lost(REPLACED)
        while data := self.source.read():
            known, new = data[: self.behind], data[self.behind :]
            self.behind -= len(known)
            self.sum_again = zlib.crc32(known, self.sum_again)
            if known and not self.behind and not self.source.start and self.sum_again != self.sum:
                raise Lost(REPLACED)
            if new:
                return new
        if self.behind:
            raise Lost(REPLACED)
        return b""

    def _wait(self, error: Exception) -> None:
        """Count a fault, and wait, or give up."""
        self.close()
        self.faults = 1 if self.at - self.last_fault >= FORGIVEN else self.faults + 1
        self.last_fault = self.at
        if self.faults > self.patience.retries:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            raise Lost(f"{reason}, {self.faults} times in a row") from error
        self.patience.pause(self.faults)
