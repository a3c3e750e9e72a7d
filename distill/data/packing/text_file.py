"""Opening text as people have it: UTF-8 with or without a byte-order mark, UTF-16; and saying what else a file is."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TextIO

from distill.errors import UserError

HEAD = 1 << 16  # bytes from which a file's kind is recognised
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What files that are no text begin with.
BINARY = {
    b"PK\x03\x04": ("a zip archive or an Excel file", "Unpack it, or save it as CSV."),
    b"\xd0\xcf\x11\xe0": ("an Excel file", "Save it as CSV."),
    b"\x1f\x8b": ("compressed with gzip", "Unpack it."),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Unpack it."),
    b"BZh": ("compressed with bzip2", "Unpack it."),
    b"\xfd7zXZ": ("compressed with xz", "Unpack it."),
    b"ARROW1": ("an Arrow file", "Save it as Parquet or JSON Lines."),
}


def head(path: Path) -> bytes:
    """The first bytes of a file; b"" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def open_text(path: Path, newline: str | None = "\n") -> TextIO:
    """Open a text file. Bytes that are no UTF-8 become unpaired surrogates, which :func:`is_text` finds.

    Args:
        newline: as for ``open``.

    Raises:
        UserError: if it is no text.
    """
    start = head(path)
    for magic, (what, remedy) in BINARY.items():
        if start.startswith(magic):
            raise UserError(f"{path} is {what}.", remedy)
    if start.startswith(UTF_16):
        return path.open(encoding="utf-16", errors="surrogatepass", newline=newline)
    if b"\0" in start.partition(b"\n")[0]:
        raise UserError(f"{path} is no text in UTF-8.", "Save it as UTF-8.")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def is_text(text: str) -> bool:
    """Whether text from :func:`open_text` was valid."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
