"""The lock of a run folder, so that only one job at a time trains there."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from distill.errors import UserError

PATIENCE = 60.0  # seconds to wait for another job to leave a run
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EIO)  # of file systems without locks


@contextmanager
def locked(run: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a run, the file ``.lock`` in its folder, which stays there. Without locks it does nothing.

    Args:
        run: the folder of the run, or of a study.
        wait: whether to wait :data:`PATIENCE` seconds for another job that has the lock.

    Raises:
        UserError: if another job trains there, and does not end within that time.
    """
    # On a file system without locks the library would otherwise create a file instead, which stays if the process is
    # killed.
    lock = FileLock(run / ".lock", preserve_lock_file=True, fallback_to_soft=False)
    try:
        acquire(lock, run) if wait else lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"Another process trains in {run}.", "Wait for it, or end it.") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def acquire(lock: FileLock, run: Path) -> None:
    """Acquire the lock of a run, and say once if another process has it.

    The training process of a command that was killed runs on for some seconds, and keeps the lock, until it notices
    that the command has ended. So a lock that is held is waited for.

    Raises:
        Timeout: after :data:`PATIENCE` seconds.
    """
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Another process has {run}; waiting for it to end.", file=sys.stderr, flush=True)
        lock.acquire(timeout=PATIENCE, poll_interval=0.2)
