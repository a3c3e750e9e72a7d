"""Settings of a whole operating-system process, made by name where a process starts; no import has effects."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # glibc's <malloc.h>


def set_up_process() -> None:
    """What every process that belongs to distill alone does first, before torch is imported.

    Not for a process that only imports distill: there the environment is the caller's.
    """
    # OpenMP reads this when torch loads it. By default its idle threads spin, and take the cores from the loader
    # processes beside them: measured on two cores, 412 images/s in training against 570 with this.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # DeepSpeed calls collectives by names that torch 2.14 has replaced; each call in each process would say so.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory for reuse instead of returning it to the kernel.

    A training step on a CPU allocates and frees hundreds of megabytes, and by default each large tensor is
    mapped, zeroed page by page and unmapped again. Measured: half the step time of a small ViT, two thirds of the
    forward of an EfficientNet, half the decoding of an image.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # absent from musl
        # No mmap at all, rather than a high threshold for it: before 2.35 that may not be above 32 MB.
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 1 << 28)):
            mallopt(option, value)


def return_freed_memory() -> None:
    """Return freed memory to the kernel after all, where :func:`keep_freed_memory` has kept it: after a training, say,
    when what follows needs memory in pieces of other sizes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """In a new process: have the kernel send it a signal when its parent process ends (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, int(by))  # PR_SET_PDEATHSIG


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a worker's main function and exit with its status; quietly with 130 if it is interrupted.

    The process that started the workers has been interrupted, too, and tells the user.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        os._exit(130)  # at once: an orderly exit would wait for the other processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done, and an interrupted exit would print tracebacks
    sys.exit(status)


@contextmanager
def temporary_environment(**variables: str) -> Iterator[None]:
    """Inside, these environment variables are set; afterwards the environment is as before.

    So are variables that libraries set inside: ``import torchvision`` sets one, ``import deepspeed`` another.
    """
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
