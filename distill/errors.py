"""The one exception a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class UserError(Exception):
    """Something the user can put right: what is wrong, and what to do about it.

    The command line prints it without a traceback and exits with status 2.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())


class Bad(NamedTuple):
    """A sample that cannot be used.

    Attributes:
        shard, key: where it is; the key is "" for a shard as a whole.
        reason: what is wrong with it, as half a sentence.
        missing: of a shard, how many samples may be missing from it.
    """

    shard: str
    key: str
    reason: str
    missing: int = 0


class BadSample(UserError):
    """A sample that cannot be used. Training passes over it, up to a limit; elsewhere it is an error."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(f"{f'The sample {key!r} of ' if key else ''}{shard} cannot be used: {reason}.", "Repair it.")
        self.bad = Bad(shard, key, reason)

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str, str]]:
        return BadSample, (self.bad.shard, self.bad.key, self.bad.reason)  # as a loader process hands it over


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The remedy for a name that does not exist: the nearest one that does, or else ``otherwise``."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{near[0]}'?" if near else otherwise


@contextmanager
def from_leaves() -> Iterator[None]:
    """Turn what the leaves raise about a recipe's values into a :class:`UserError` with the same words.

    The leaves cannot import this module; they raise the built-in exceptions their docstrings name.
    """
    try:
        yield
    except (LookupError, ValueError, ImportError, ConnectionError) as error:
        # str(KeyError("x")) is "'x'": take the message itself.
        raise UserError(str(error.args[0]) if error.args else str(error)) from error
