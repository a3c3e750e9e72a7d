"""Exceptions whose messages are written for users, and the record of a sample that cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class UserError(Exception):
    """An error that the user can correct. The command line prints it without a traceback and exits with status 2.

    Args:
        problem: one sentence on what is wrong.
        remedy: one sentence on what to do.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())


class Bad(NamedTuple):
    """A record of one sample, or one whole shard, that cannot be used: what logs and the run folder keep.

    Attributes:
        shard: its path or address.
        key: the sample's key; "" for a shard as a whole.
        reason: what is wrong, as part of a sentence.
        missing: for a damaged shard, the estimated number of samples that cannot be read.
    """

    shard: str
    key: str
    reason: str
    missing: int = 0


class BadSample(UserError):
    """A sample or shard that cannot be used. Training skips it, up to a limit; everything else stops.

    Attributes:
        bad: the record of it.
    """

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(f"{f'The sample {key!r} of ' if key else ''}{shard} cannot be used: {reason}.", "Repair it.")
        self.bad = Bad(shard, key, reason)

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str, str]]:
        return BadSample, (self.bad.shard, self.bad.key, self.bad.reason)  # pickled by loader processes


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The remedy for an unknown name: a question with the most similar known name, or ``otherwise`` if none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{near[0]}'?" if near else otherwise


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Raise the exceptions of the packages ``teachers``, ``students`` and ``losses`` as :class:`UserError`.

    Those packages do not import ``distill``. For values that the user can correct they raise built-in exceptions,
    named in their docstrings, whose messages are already written for users.

    Raises:
        UserError: with the message of a ``LookupError``, ``ValueError``, ``ImportError`` or ``ConnectionError``.
    """
    try:
        yield
    except (LookupError, ValueError, ImportError, ConnectionError) as error:
        # str(KeyError("x")) is "'x'", with quotes; its first argument is the message itself.
        raise UserError(str(error.args[0]) if error.args else str(error)) from error
