"""Files that stay open for further reads, as many as the process may have."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MOST = 4096  # more than that save little
SHARE = 4  # the part of the descriptors that a process may have: 256 where the limit is the usual 1,024


def most_open() -> int:
    """How many files may stay open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if limit == resource.RLIM_INFINITY else max(1, min(MOST, limit // SHARE))


class OpenFiles:
    """Descriptors of numbered files, opened when they are first used; the most recently used ones stay open.

    Args:
        path: gives the path of the file with a number.
    """

    def __init__(self, path: Callable[[int], str]) -> None:
        self.path, self.limit = path, most_open()
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getitem__(self, number: int) -> int:
        """The descriptor of a file.

        Raises:
            OSError: if it cannot be opened.
        """
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while len(self._open) >= self.limit:
            os.close(self._open.popitem(last=False)[1])
        self._open[number] = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)
        return self._open[number]

    def close(self) -> None:
        """Close all files; one that is used again is opened again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        # Descriptors are not valid in another process: a loader process opens its own.
        return self.__dict__ | {"_open": OrderedDict()}


def read_ahead(file: int, start: int, length: int) -> None:
    """Ask the operating system to read a part of a file into its cache, and do not wait for it.

    Raises:
        OSError: if that is not possible.
    """
    if not is_cached(file, start + length - 1) and hasattr(os, "posix_fadvise"):  # which macOS lacks
        os.posix_fadvise(file, start, length, os.POSIX_FADV_WILLNEED)


def is_cached(file: int, offset: int) -> bool:
    """Whether a byte of a file is in the operating system's cache; False where that cannot be found out.

    This is ten times as fast as asking for some hundred pages that are all in the cache.
    """
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except (OSError, AttributeError):
        return False
