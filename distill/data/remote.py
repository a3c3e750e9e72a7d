"""A remote file read as one stream of bytes, through connections that fail and are opened again.

A stream that sends nothing for too long, is cut off or is refused for now is opened again after a pause, and reading
goes on at the next byte. A stream that cannot be read at all ends with the reason.
"""

from __future__ import annotations

import http.client
import random
import time
import zlib
from dataclasses import dataclass, replace

from distill.data.openers import CHUNK, OPENERS, Source, StreamFailed
from distill.data.shard_names import address_scheme

MAX_WAIT = 60.0  # seconds before a further attempt
MAX_DOUBLINGS = 10  # of the wait, so that 2 ** failures cannot overflow; MAX_WAIT bounds it long before
PROGRESS_BYTES = 1 << 16  # that have to arrive after a failure before the next one counts as the first in a row
REPLACED = "it has been replaced while it was read"


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a stream, and how often to open it again.

    Attributes:
        timeout: seconds for which a stream may send no byte; the recipe's ``data.timeout``.
        retries: failures in a row after which a stream is given up; the recipe's ``data.retries``.
        first_wait: seconds before the first further attempt; the wait doubles before each one after that.
        sample_timeout: seconds for which a stream may send bytes without completing a sample.
    """

    timeout: float
    retries: int
    first_wait: float = 1.0
    sample_timeout: float = 900.0

    def wait(self, failures: int) -> None:
        """Sleep before a further attempt, after this many failures in a row.

        The time is random within a factor of two, so that many processes do not return to a server all at once.
        """
        seconds = self.first_wait * 2 ** min(failures - 1, MAX_DOUBLINGS)
        time.sleep(min(MAX_WAIT, seconds) * random.uniform(0.5, 1.0))


class Stream:
    """The bytes of a remote file from its first to its last, each once, over as many connections as it takes.

    Args:
        address: of a scheme in :data:`~distill.data.openers.OPENERS`.
        policy: when to try again and when to give up.

    Attributes:
        position: how many bytes have been read.
        last_sample: when the reader last completed a sample, as ``time.monotonic()``; the reader sets it.
    """

    def __init__(self, address: str, policy: RetryPolicy) -> None:
        self.address, self.policy = address, policy
        self.source: Source | None = None
        self.version: dict[str, str] = {}
        self.last_sample = time.monotonic()
        # A source may start before the position asked for; ``to_skip`` counts its bytes that were read before.
        self.position = self.to_skip = self.failures = self.last_failure = 0
        # CRC-32 of all bytes read, and of those bytes when a further connection sends them again.
        self.checksum = self.skipped_checksum = 0

    def read(self, size: int = CHUNK) -> bytes:
        """The next bytes, as many as have arrived, whatever ``size`` asks for; b"" at the end of the file.

        Raises:
            StreamFailed: if the stream cannot be read on.
        """
        while True:
            if time.monotonic() - self.last_sample > self.policy.sample_timeout:
                raise StreamFailed(f"nothing of use came for {self.policy.sample_timeout:g} seconds")
            try:
                data = self._read_new()
            except (OSError, http.client.HTTPException) as error:
                self._wait_or_give_up(error)
            else:
                self.position += len(data)
                self.checksum = zlib.crc32(data, self.checksum)
                return data

    def last_try(self) -> None:
        """From now on, give up at the first failure."""
        self.policy = replace(self.policy, retries=0)

    def close(self) -> None:
        """Close the connection or end the command, if one is open."""
        if self.source is not None:
            self.source.close()
            self.source = None

    def _read_new(self) -> bytes:
        """The next bytes that have not been read before; opens the source if none is open.

        Raises:
            StreamFailed: if the file is not the one that reading began with.
        """
        if self.source is None:
            self._open()
        assert self.source is not None
        while data := self.source.read():
            skipped, new = data[: self.to_skip], data[self.to_skip :]
            self.to_skip -= len(skipped)
            self.skipped_checksum = zlib.crc32(skipped, self.skipped_checksum)
            if skipped and not self.to_skip and not self.source.start and self.skipped_checksum != self.checksum:
                raise StreamFailed(REPLACED)
            if new:
                return new
        if self.to_skip:
            raise StreamFailed(REPLACED)
        return b""

    def _open(self) -> None:
        """Open the source at the current position, or before it where it cannot start there.

        Raises:
            StreamFailed: if the source reports another version of the file than before.
        """
        opener = OPENERS[address_scheme(self.address)]
        self.source = opener(self.address, self.position, self.policy.timeout)
        self.to_skip, self.skipped_checksum = self.position - self.source.start, 0
        before, self.version = self.version, {**self.version, **self.source.version}
        if any(self.version[name] != value for name, value in before.items()):
            raise StreamFailed(REPLACED)

    def _wait_or_give_up(self, error: Exception) -> None:
        """Count a failure of the connection, and wait before the next attempt.

        Raises:
            StreamFailed: if there have been too many failures in a row.
        """
        self.close()
        self.failures = 1 if self.position - self.last_failure >= PROGRESS_BYTES else self.failures + 1
        self.last_failure = self.position
        if self.failures > self.policy.retries:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            raise StreamFailed(reason + f", {self.failures} times in a row" * (self.failures > 1)) from error
        self.policy.wait(self.failures)
