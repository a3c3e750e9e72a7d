"""Libraries that only some towers need."""

from __future__ import annotations

import importlib
from typing import Any


def import_library(name: str, tower: str, command: str) -> Any:
    """Import a library that only one kind of tower needs.

    Args:
        name: the module.
        tower: the name of the architecture, for the error.
        command: what installs the library, for the error.

    Raises:
        ImportError: if it is not installed; the message says what to run.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"The text tower '{tower}' needs {name}: {error}. Run: {command}") from error
