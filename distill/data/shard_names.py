"""How a recipe names shards: brace notation, wildcards, folders, files; and addresses of streams."""

from __future__ import annotations

import glob
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.config import is_remote
from distill.data.openers import OPENERS
from distill.errors import UserError, did_you_mean


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
        scheme = scheme_of(address)
        if scheme not in OPENERS:
            raise UserError(
                f"'{address}' is no stream that can be read.",
                did_you_mean(scheme, OPENERS, f"Known: {', '.join(OPENERS)}; and pipe:COMMAND for anything else."),
            )
    refuse_repeated(found)
    return found


def scheme_of(address: str) -> str:
    """How an address is read: what stands before the first colon, if there is one."""
    scheme, colon, _ = address.partition(":")
    return scheme if colon else ""


def shown(address: str) -> str:
    """An address without what may be secret, for files that others see.

    Of a URL that is its user and its query, of a command all but its first word. A few digits in their place tell
    addresses apart.
    """
    if scheme_of(address) == "pipe":
        kept = " ".join(address.split()[:1])
    elif "://" in address:
        kept = re.sub(r"://[^/?#]*@", "://", re.split(r"[?#]", address)[0])
    else:
        kept = address
    return kept if kept == address else f"{kept} ({hashlib.sha256(address.encode()).hexdigest()[:8]})"


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
