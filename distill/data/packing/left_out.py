"""What a packing leaves out: counted by reason, and listed in a file."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path

from distill.data.packing.row import Row
from distill.data.packing.spool import Spool
from distill.files import write_whole
from distill.wording import counted

MOST = 5  # reasons in a summary


class LeftOut:
    """Rows that were left out; they lie on disk.

    Args:
        folder: on whose disk.
    """

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.entries: array[int] = array("Q")  # of each the row's number and an offset
        self.reasons: Counter[str] = Counter()
        self.example: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.entries) // 2

    def add(self, row: Row, reason: str) -> None:
        """Leave a row out.

        Args:
            reason: as part of a sentence. What follows a colon differs from row to row, and is not counted apart.
        """
        entry = {"row": row.number, "where": row.where, "image": row.name, "reason": reason}
        self.entries.extend(
            (row.number, self.spool.append(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace")))
        )
        kind = reason.split(":")[0]
        self.reasons[kind] += 1
        self.example.setdefault(kind, ", ".join(word for word in (row.where, row.name) if word))

    def write(self, path: Path) -> None:
        """Write an object a line, in the order of the rows: ``row`` (from 1), ``where``, ``image``, ``reason``."""
        numbers, offsets = self.entries[::2], self.entries[1::2]

        def write_lines(to: Path) -> None:
            with to.open("wb") as file:
                for k in sorted(range(len(numbers)), key=numbers.__getitem__):
                    file.write(self.spool.read(offsets[k]) + b"\n")

        write_whole(path, write_lines)

    def summary(self) -> str:
        """The numbers by reason, such as "2 × there is no caption (such as line 7, img/7.jpg)"."""
        parts = [f"{n} × {kind} (such as {self.example[kind]})" for kind, n in self.reasons.most_common(MOST)]
        further = len(self.reasons) - len(parts)
        return "; ".join(parts) + (f"; and {counted(further, 'further reason')}" if further else "")

    def close(self) -> None:
        """Free the disk space."""
        self.spool.close()
