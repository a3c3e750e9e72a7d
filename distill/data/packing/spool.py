"""Records on disk that take no memory: a file without a name, which ends with the process."""

from __future__ import annotations

import tempfile
from pathlib import Path


class Spool:
    """Byte strings, by the offset that appending them returned.

    Args:
        folder: on whose disk they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)
        self.end = 0

    def append(self, data: bytes) -> int:
        """Keep a byte string; returns where."""
        self.file.seek(self.end)
        offset = self.end
        self.end += self.file.write(len(data).to_bytes(8, "little") + data)
        return offset

    def read(self, offset: int) -> bytes:
        """The byte string that is kept there."""
        self.file.seek(offset)
        return self.file.read(int.from_bytes(self.file.read(8), "little"))

    def close(self) -> None:
        """Free the disk space."""
        self.file.close()
