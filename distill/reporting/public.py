"""Removes what names a machine from texts that a report shows: folders, and parts of addresses that may be secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distill.data.shard_names import without_secrets
from distill.data_table import is_remote

# An absolute path or one of the home folder: not a part of an address, a fraction or a relative path.
PATH = re.compile(r"(?<![\w:/.~])~?(?:/[^/\s'\"]+)+/?")


def without_folders(text: str, *folders: Path) -> str:
    """A text in which of every absolute path only the last part is left.

    Args:
        text: such as a message.
        folders: that may occur in it, also with spaces in their names.
    """
    for folder in sorted({str(f) for one in folders for f in (one, one.absolute())}, key=len, reverse=True):
        if folder not in (".", "/"):
            text = text.replace(folder, Path(folder).name)
    return PATH.sub(lambda found: Path(found[0]).name, text)


def shard_name(spec: str) -> str:
    """A shard's name: of a path its last part, of an address all but its secrets."""
    return without_secrets(spec) if is_remote(spec) else Path(spec).name


def public_tree(value: Any) -> Any:
    """JSON-like data in which of every string that is an absolute path only the last part is left."""
    if isinstance(value, dict):
        return {key: public_tree(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [public_tree(one) for one in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~/")) else value
