"""Writing files so that they are complete or absent, and reading tables and hashes from them."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is complete or absent: under a temporary name, then fsync, then rename.

    Its permissions are those that the umask asks for.

    Args:
        path: of the file; its folder is made if it is missing.
        write: is called with the temporary path, and writes the whole content to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{mark()}.tmp")
    try:
        with disk_errors(path):
            write(temporary)
        as_usual(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Inside, errors of libraries that only pass on one of the system, such as a full disk, are raised as ``OSError``.

    safetensors, for one, raises an exception of its own, with the system's message and number in its text.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def user_cache() -> Path:
    """The user's folder for what distill keeps and can make again; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distill"


def nearest_folder(path: Path) -> Path:
    """A path if it is a folder, otherwise the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def as_usual(path: Path) -> None:
    """Give a new file the permissions that the umask asks for; safetensors, for one, writes with others."""
    mask = os.umask(0o077)
    os.umask(mask)
    if stat.S_IMODE(path.stat().st_mode) != 0o666 & ~mask:
        with suppress(OSError):  # some file systems do not let a user change permissions
            path.chmod(0o666 & ~mask)


def mark() -> str:
    """The part of a temporary name that says which host and process made it."""
    return f"{socket.gethostname()}~{os.getpid()}~"


def abandoned(path: Path) -> bool:
    """Whether a temporary file was made by a process of this host that has ended.

    To be asked before this process makes temporary files of its own: one whose name has the number of this process was
    then made by an earlier process with that number. For files of other hosts the answer is False.
    """
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
    """The table that a UTF-8 file holds.

    Args:
        path: of the file.
        parse: ``json.loads`` or ``tomllib.loads``.

    Raises:
        ValueError: if the file cannot be read or parsed, or holds something other than a table.
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
