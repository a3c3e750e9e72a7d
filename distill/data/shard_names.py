"""Names of shards in a recipe, expanded: brace notation, wildcards and folders to paths, and addresses of streams."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from distill.data.archives import COMPRESSED_SUFFIXES
from distill.data.images import is_ignored
from distill.data.openers import OPENERS
from distill.data.picture_lists import picture_lists
from distill.data_table import is_remote
from distill.errors import UserError, did_you_mean

OTHERWISE = "Name the folder that does, or make shards of your files: distill data pack."


def shard_paths(specs: Iterable[str]) -> list[Path]:
    """The paths of local shards, in the order of ``specs``.

    Args:
        specs: files, folders of ``.tar`` files or of pictures, brace notation or wildcards.

    Raises:
        UserError: if a file does not exist or is named twice, a folder holds no ``.tar`` file or also compressed
            ones, or one of ``specs`` is the address of a stream.
    """
    paths: list[Path] = []
    for spec in specs:
        if is_remote(spec):
            raise UserError(
                f"'{spec}' is a remote stream; here samples are looked up in local files.",
                "Copy the shards to a mounted folder and name that. Only data.train, as a whole, may be streams.",
            )
        for path in matching_paths(spec):
            if path.is_dir():
                paths += shards_in(path)
            elif path.is_file():
                paths.append(path)
            else:
                raise UserError(f"The shard {path} does not exist.", "Correct data.train or data.eval.")
    check_unique(paths)
    check_one_name_each(paths)
    return paths


def shards_in(folder: Path) -> list[Path]:
    """The shards in a folder itself, not in its subfolders, sorted by name; or the lists of the pictures in it.

    Raises:
        UserError: if there is none, or there are compressed ones, which would be left out.
    """
    # One listing, because a folder may hold very many shards, on a file system where each question takes long.
    try:
        with os.scandir(folder) as found:
            entries = sorted((one for one in found if not is_ignored(one.name)), key=lambda one: one.name)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read: {error.strerror}.", "Correct its permissions."
        ) from error
    shards = [folder / one.name for one in entries if one.name.lower().endswith(".tar") and not one.is_dir()]
    compressed = [one.name for one in entries if one.name.lower().endswith(COMPRESSED_SUFFIXES)]
    if compressed:
        others = f" and {len(compressed) - 1} more" if len(compressed) > 1 else ""
        raise UserError(
            f"The folder {folder} holds compressed shards, of which samples cannot be read one by one: "
            f"{compressed[0]}{others}.",
            "Decompress them, as by gunzip, or move them elsewhere.",
        )
    inner = [one.name for one in entries if one.is_dir() and holds_shards(one.path)]
    named = ", ".join(f"{folder / name}" for name in inner[:3]) + ", …" * (len(inner) > 3)
    if not shards and not inner and (lists := picture_lists(folder)):
        return lists
    if not shards:
        remedy = f"Name the folders that do: {named}." if inner else OTHERWISE
        raise UserError(f"The folder {folder} holds no .tar shard{'' if inner else ' and no picture'}.", remedy)
    if inner:
        print(f"Note: of {folder}, only its own shards are read, not those in {named}.", file=sys.stderr, flush=True)
    return shards


def holds_shards(folder: str) -> bool:
    """Whether a folder itself holds a shard, compressed or not."""
    try:
        with os.scandir(folder) as entries:
            return any(one.name.lower().endswith((".tar", *COMPRESSED_SUFFIXES)) for one in entries)
    except OSError:  # a folder that may not be read
        return False


def check_one_name_each(paths: Sequence[Path]) -> None:
    """Raise a ``UserError`` if two of the paths are one file, by links."""
    # In an array, because a million tuples would take much memory.
    numbers = np.fromiter((n for path in paths for n in file_number(path)), dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort(numbers.T)
    equal = (numbers[order[1:]] == numbers[order[:-1]]).all(axis=1) & (numbers[order[1:], 1] > 0)
    if equal.any():
        k = int(np.argmax(equal))
        raise UserError(f"{paths[order[k]]} and {paths[order[k + 1]]} are one file.", "Name each shard once.")


def file_number(path: Path) -> tuple[int, int]:
    """What a file has in common with all links to it: the numbers of its device and of the file there.

    Raises:
        UserError: if it cannot be read, such as a link to nothing.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"The shard {path} cannot be read: {error.strerror}.", "Restore it.") from error
    return stat.st_dev, stat.st_ino


def stream_addresses(specs: Iterable[str]) -> list[str]:
    """The addresses of streams, braces expanded, in the order of ``specs``.

    Raises:
        UserError: if an address is of no scheme in ``OPENERS``, or is named twice.
    """
    addresses = [name for spec in specs for name in expand_braces(spec)]
    for address in addresses:
        scheme = address_scheme(address)
        if scheme not in OPENERS:
            raise UserError(
                f"'{address}' is no stream that can be read.",
                did_you_mean(scheme, OPENERS, f"Known: {', '.join(OPENERS)}; and pipe:COMMAND for anything else."),
            )
    check_unique(addresses)
    return addresses


def address_scheme(address: str) -> str:
    """The part of an address before its first colon, such as ``https`` or ``pipe``; "" if there is no colon."""
    scheme, colon, _ = address.partition(":")
    return scheme if colon else ""


def without_secrets(address: str) -> str:
    """An address for messages, logs and exported files, without the parts that may hold credentials.

    A URL loses its user, password, query and fragment, a command all but its first word. Eight digits of a hash of the
    whole address are added in their place, so that two addresses can still be told apart.
    """
    if address_scheme(address) == "pipe":
        kept = " ".join(address.split()[:1])
    elif "://" in address:
        kept = re.sub(r"://[^/?#]*@", "://", re.split(r"[?#]", address)[0])
    else:
        kept = address
    return kept if kept == address else f"{kept} ({hashlib.sha256(address.encode()).hexdigest()[:8]})"


def check_unique(names: Sequence[Path] | Sequence[str]) -> None:
    """Raise a ``UserError`` if a shard is named twice."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"The shard {min(map(str, repeated))} is named twice.", "Name each shard once.")


def matching_paths(spec: str) -> list[Path]:
    """The path ``spec`` itself if it exists, otherwise the paths that its braces and wildcards expand to.

    A name with wildcards that match nothing is returned as it is, so that the error can name it. Wildcards do not
    stand for the indexes beside shards.
    """
    if Path(spec).exists():
        return [Path(spec)]
    return [Path(found) for name in expand_braces(spec) for found in (matches(name) or [name])]


def matches(name: str) -> list[str]:
    """The files that a name with wildcards stands for, sorted."""
    return [
        found
        for found in sorted(glob.glob(name))
        if not (is_ignored(Path(found).name) or found.lower().endswith(".tar.index"))
    ]


def expand_braces(spec: str) -> list[str]:
    """All names that brace notation stands for: ``a-{0..1}.tar`` gives ``a-0.tar`` and ``a-1.tar``.

    Raises:
        UserError: if the braces are not balanced.
    """
    import braceexpand

    try:
        # In a path or URL a backslash before a brace makes it an ordinary character. In a command, backslashes belong
        # to the shell and are left alone.
        return list(braceexpand.braceexpand(spec, escape=not spec.startswith("pipe:")))
    except ValueError as error:
        raise UserError(f"The braces of '{spec}' are not balanced.", "Write shard-{000000..000009}.tar.") from error
