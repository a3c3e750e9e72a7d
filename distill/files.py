"""Files that are complete or absent, and never somebody else's."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is complete or absent: temporary name, fsync, rename. Its mode is the umask's.

    Args:
        path: where it ends up; its folder is made when it is missing.
        write: is given the temporary path and writes everything to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{mark()}.tmp")
    try:
        write(temporary)
        as_usual(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def as_usual(path: Path) -> None:
    """Give a new file the mode that the user's umask asks for; some writers, such as safetensors', have their own."""
    mask = os.umask(0o077)
    os.umask(mask)
    if stat.S_IMODE(path.stat().st_mode) != 0o666 & ~mask:
        with suppress(OSError):  # where modes are not the user's to change
            path.chmod(0o666 & ~mask)


def mark() -> str:
    """What temporary names carry: the host and the process that made them."""
    return f"{socket.gethostname()}~{os.getpid()}~"


def abandoned(path: Path) -> bool:
    """Whether a temporary name is of a process of this host that is gone, or of this one, left from before."""
    made = re.search(re.escape(socket.gethostname()) + r"~(\d+)~", path.name)
    if made is None:
        return False
    try:
        os.kill(int(made[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return int(made[1]) == os.getpid()


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """What a UTF-8 file says, by ``parse``: ``json.loads`` or ``tomllib.loads``.

    Raises:
        ValueError: if there is no table in it, whatever there is instead.
    """
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(error.strerror) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is no table")
    return found


def write_text(path: Path, text: str) -> None:
    """``write_whole`` for UTF-8 text."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
