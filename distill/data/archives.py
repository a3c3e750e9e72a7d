"""Files that are given as shards and are no plain tar archives: which they are, by their first bytes, and reading
compressed ones as streams."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = 16  # bytes at a file's beginning by which its format is known
COMPRESSED_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in "tar.gz tgz tar.bz2 tbz tbz2 tar.xz txz tar.zst tzst tar.lz4 tar.lzma tlz tar.z taz".split()
)


@dataclass(frozen=True)
class Format:
    """A format that shards are found in by mistake.

    Attributes:
        magic: the first bytes of its files.
        name: what such a file is, as part of a sentence.
        remedy: what to do where a file on disk is of this format; {} stands for its name.
        command: decompresses it, from its standard input to its standard output; "" for other formats.
        opened: decompresses a file that has a method ``read``; None if Python cannot.
    """

    magic: bytes
    name: str
    remedy: str = "decompress it, because samples are read from any place of it: {command} < {path} > plain.tar"
    command: str = ""
    opened: Callable[[Any], Any] | None = None

    def on_disk(self, path: Path) -> str:
        """What is wrong with a shard of this format and what to do, as part of a sentence."""
        return f"{self.name}; {self.remedy.format(path=path.name, command=self.command)}"

    def streamed(self) -> str:
        """The same of a stream of this format."""
        if self.command:
            return f"{self.name}; decompress it, as in pipe:COMMAND | {self.command}"
        return self.name


FORMATS = (
    Format(
        b"\x1f\x8b", "it is compressed with gzip", command="gunzip", opened=lambda file: gzip.GzipFile(fileobj=file)
    ),
    Format(b"BZh91AY&SY", "it is compressed with bzip2", command="bunzip2", opened=bz2.BZ2File),
    Format(b"\xfd7zXZ\0", "it is compressed with xz", command="unxz", opened=lzma.LZMAFile),
    Format(b"\x28\xb5\x2f\xfd", "it is compressed with Zstandard", command="unzstd"),
    Format(b"\x04\x22\x4d\x18", "it is compressed with LZ4", command="unlz4"),
    Format(b"\x1f\x9d", "it is compressed with compress", command="uncompress"),
    Format(
        b"PK\x03\x04", "it is a ZIP archive, no tar archive", "unpack it, and pack the pictures: distill data pack"
    ),
    Format(b"7z\xbc\xaf", "it is a 7z archive, no tar archive", "unpack it, and pack the pictures: distill data pack"),
    Format(b"Rar!", "it is a RAR archive, no tar archive", "unpack it, and pack the pictures: distill data pack"),
    Format(b"PAR1", "it is a Parquet file, no tar archive", "make shards of it"),
    Format(b"version https://", "it is a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
    Format(b"<", "it is a web page or XML, no tar archive", "download the file anew"),
)


def format_of(head: bytes) -> Format | None:
    """The format of a file that begins with these bytes, if it is one of ``FORMATS``."""
    return next((one for one in FORMATS if head.startswith(one.magic)), None)


def what_it_is(path: Path) -> str:
    """What a file is that is no tar archive, and what to do, as part of a sentence; "" if that is not known."""
    with path.open("rb") as file:
        found = format_of(file.read(HEAD))
    return found.on_disk(path) if found else ""


class Peeked:
    """A file whose first bytes have been looked at, and are given again.

    Args:
        file: has a method ``read``, which may give fewer bytes than asked for.

    Attributes:
        head: the first ``HEAD`` bytes, fewer if the file has no more.
    """

    def __init__(self, file: Any) -> None:
        self.file, self.head = file, b""
        while len(self.head) < HEAD and (data := file.read(HEAD)):
            self.head += data
        self.left = self.head
        self.head = self.head[:HEAD]

    def read(self, size: int = -1) -> bytes:
        if not self.left:
            data: bytes = self.file.read(size)
            return data
        given, self.left = (self.left, b"") if size < 0 else (self.left[:size], self.left[size:])
        return given


class Decompressed:
    """The content of a compressed file. Its ``read`` raises ``tarfile.ReadError`` if the file is damaged."""

    def __init__(self, file: Peeked, kind: Format) -> None:
        assert kind.opened is not None
        self.file, self.kind = kind.opened(file), kind

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self.file.read(size)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise tarfile.ReadError(f"{self.kind.name}, and damaged: {error}") from error
        return data


def decompressed(file: Any) -> tuple[Any, Format | None]:
    """A stream, decompressed if it is compressed in a way that Python reads; and its format, if it is no tar archive.

    Args:
        file: has a method ``read``.
    """
    peeked = Peeked(file)
    kind = format_of(peeked.head)
    return (Decompressed(peeked, kind) if kind is not None and kind.opened else peeked), kind
