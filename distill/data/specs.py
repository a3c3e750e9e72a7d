"""How a recipe names shards: brace notation, wildcards, folders, files; and addresses of streams."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.config import is_remote
from distill.errors import UserError, did_you_mean

SCHEMES = ("http", "https", "s3", "pipe")  # see remote.py


def expand(specs: Iterable[str]) -> list[Path]:
    """The shards that brace notation, folders and files name, in order.

    Raises:
        UserError: if one does not exist, is a remote address, or a folder holds no ``.tar``.
    """
    paths: list[Path] = []
    for spec in specs:
        if is_remote(spec):
            raise UserError(
                f"'{spec}' is a remote stream; here samples are looked up in local files.",
                "Copy the shards to a mounted folder and name that. Only data.train, as a whole, may be streams.",
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
    refuse_repeated(paths)
    return paths


def addresses(specs: Iterable[str]) -> list[str]:
    """The streams that specifications name, braces expanded.

    Raises:
        UserError: if one is no address of a kind that can be read.
    """
    found = [name for spec in specs for name in braces(spec)]
    for address in found:
        scheme = address.partition(":")[0]
        if scheme not in SCHEMES:
            raise UserError(
                f"'{address}' is no stream that can be read.",
                did_you_mean(scheme, SCHEMES, f"Known: {', '.join(SCHEMES)}; and pipe:COMMAND for anything else."),
            )
    refuse_repeated(found)
    return found


def refuse_repeated(names: Sequence[Path] | Sequence[str]) -> None:
    """Raise ``UserError`` if a shard is named twice."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"The shard {min(map(str, repeated))} is named twice.", "Name each shard once.")


def matches(spec: str) -> list[Path]:
    """The paths that a specification stands for: itself if it exists, else its braces and wildcards expanded."""
    if Path(spec).exists():
        return [Path(spec)]
    return [Path(found) for name in braces(spec) for found in (sorted(glob.glob(name)) or [name])]


def braces(spec: str) -> list[str]:
    """What brace notation stands for."""
    import braceexpand

    try:
        # Of a command nothing but its braces changes; elsewhere a backslash makes a brace an ordinary letter.
        return list(braceexpand.braceexpand(spec, escape=not spec.startswith("pipe:")))
    except ValueError as error:
        raise UserError(f"The braces of '{spec}' are not balanced.", "Write shard-{000000..000009}.tar.") from error
