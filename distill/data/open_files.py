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
