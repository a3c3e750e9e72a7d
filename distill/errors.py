"""The one exception a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can put right: what is wrong, and what to do about it.

    The command line prints it without a traceback and exits with status 2.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())


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
