"""How a recipe names shards: brace notation, wildcards, folders, files."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from distill.errors import UserError


def expand(specs: Iterable[str]) -> list[Path]:
    """The shards that brace notation, folders and files name, in order.

    Raises:
        UserError: if one does not exist, is a remote address, or a folder holds no ``.tar``.
    """
    paths: list[Path] = []
    for spec in specs:
        if "://" in spec or spec.startswith("pipe:"):
            raise UserError(
                f"'{spec}' is a remote stream, and training here addresses samples in local files.",
                "Copy the shards to a local or mounted folder and name that.",
            )
        for path in matches(spec):
            if path.is_dir():
                inside = sorted(path.glob("*.tar"))
                if not inside:
                    raise UserError(f"The folder {path} holds no .tar shard.", "Name the folder that does.")
                paths += inside
            elif path.is_file():
                paths.append(path)
            else:
                raise UserError(f"The shard {path} does not exist.", "Correct data.train or data.eval.")
    if len(set(paths)) < len(paths):
        repeated = min(path for path, count in Counter(paths).items() if count > 1)
        raise UserError(f"The shard {repeated} is named twice.", "Name each shard once.")
    return paths


def matches(spec: str) -> list[Path]:
    """The paths that a specification stands for: itself if it exists, else its braces and wildcards expanded."""
    import braceexpand

    if Path(spec).exists():
        return [Path(spec)]
    try:
        names = list(braceexpand.braceexpand(spec))
    except ValueError as error:
        raise UserError(f"The braces of '{spec}' are not balanced.", "Write shard-{000000..000009}.tar.") from error
    return [Path(found) for name in names for found in (sorted(glob.glob(name)) or [name])]
