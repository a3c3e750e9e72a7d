"""Collections of pictures: folders, picture files, lists of them and shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from distill.data.images import image_files
from distill.data.shard_names import COMPRESSED_SUFFIXES, holds_shards, matching_paths
from distill.data.shards import Shards
from distill.data.views import decode
from distill.data_table import is_remote
from distill.errors import BadSample, UserError
from distill.ship import inputs

ANYTHING = "Name a folder of pictures, picture files, a .txt list of them, or shards."


@dataclass
class Pictures:
    """The pictures of a collection, in order; they are read one by one.

    Attributes:
        names: those of a folder are named by their path in it, those of a list and single ones by the path given,
            samples of shards by their key.
        states: for each picture a text that changes when it does: size and time of its file, or hash and row of its
            shard.
        places: for each picture its file, or the number in ``shards`` and its row there.
        shards: the shards that are open.
        skipped: (name, reason) of what cannot be used, as far as it is known.
    """

    names: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    places: list[Path | tuple[int, int]] = field(default_factory=list)
    shards: list[Shards] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def read(self, i: int) -> Image.Image:
        """Picture i; raises ``UserError`` if it cannot be used."""
        place = self.places[i]
        if isinstance(place, Path):
            return inputs.picture(place)
        return decode(self.shards[place[0]].read(place[1], ["image"]))

    def add_file(self, name: str, file: Path) -> None:
        """Add a picture file; one that is not there is skipped."""
        try:
            stat = file.stat()
        except OSError as error:
            self.skipped.append((name, error.strerror or str(error)))
            return
        self.names.append(name)
        self.states.append(f"{stat.st_size} {stat.st_mtime_ns}")
        self.places.append(file)

    def add_shards(self, shards: Shards) -> None:
        """Add every sample of some shards."""
        self.skipped += [(fault.shard, fault.reason) for fault in shards.faults]
        for number in range(len(shards)):
            shard, row = shards.locate(number)
            self.names.append(shards.key(number))
            self.states.append(f"{shards.indexes.sha256[shard].tobytes().hex()[:16]} {row}")
            self.places.append((len(self.shards), number))
        self.shards.append(shards)

    def close(self) -> None:
        """Close the files of shards."""
        for shards in self.shards:
            shards.close()


def reason_of(error: UserError) -> str:
    """Why a picture was skipped, from the error of reading it."""
    if isinstance(error, BadSample):
        return error.bad.reason
    cause = error.__cause__
    return (getattr(cause, "strerror", None) or f"it {cause}") if cause is not None else str(error)


def find_pictures(specs: Sequence[str], strict: bool = False) -> Pictures:
    """The pictures of collections, in their order.

    Args:
        specs: folders, picture files, ``.txt`` lists with a path a line, and shards; also with braces and wildcards.
        strict: raise at the first file that is missing and at the first fault of a shard.

    Raises:
        UserError: if there is no such file, a folder holds both shards and pictures, or there is no picture at all.
    """
    found = Pictures()
    for spec in specs:
        if is_remote(spec):
            raise UserError(f"'{spec}' is a stream; pictures are embedded from files.", "Copy the shards first.")
        for path in matching_paths(spec):
            add_path(found, path, strict)
    if strict and found.skipped:
        raise UserError(f"{': '.join(found.skipped[0])}.", "Remove or replace it.")
    if not found.names:
        why = f": {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise UserError(f"There is no picture in {', '.join(specs)} that can be embedded{why}.", ANYTHING)
    return found


def add_path(found: Pictures, path: Path, strict: bool) -> None:
    """Add the pictures of one folder, file, list or shard; see :func:`find_pictures`."""
    if path.is_dir():
        files = [(str(file.relative_to(path)), file) for file in image_files(path)]
        if holds_shards(str(path)):
            if files:
                raise UserError(
                    f"{path} holds shards and pictures ({files[0][0]}).",
                    "Name the shards, or a folder with the pictures alone.",
                )
            found.add_shards(Shards.open([str(path)], strict))
            return
    elif not path.is_file():
        raise UserError(f"{path} does not exist.", ANYTHING)
    elif path.suffix.lower() == ".txt":
        files = [(line, path.parent / line) for line in lines_of(path) if line.strip()]
    elif path.name.lower().endswith((".tar", *COMPRESSED_SUFFIXES)):
        found.add_shards(Shards.open([str(path)], strict))
        return
    else:
        files = [(str(path), path)]
    for name, file in files:
        found.add_file(name, file)


def lines_of(file: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, without a mark at its beginning. Only ``\n`` ends a line, or ``\r\n``.

    Raises:
        UserError: if it is not UTF-8.
    """
    with file.open("rb") as binary:
        for number, line in enumerate(binary, 1):
            try:
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"Line {number} of {file} is not UTF-8 text: {error.reason}.", "Convert the file to UTF-8."
                ) from error
            yield text
