"""Reading the samples of a tar archive that arrives as a stream of bytes, from its first to its last."""

from __future__ import annotations

import posixpath
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from distill.data.archives import Format, decompressed
from distill.data.index import REST_BYTES, TAR_ERRORS, is_link, link_target
from distill.data.members import KINDS, Leftovers, is_stored_whole, place_of, readable
from distill.data.openers import StreamFailed
from distill.wording import counted

MAX_MEMBER_BYTES = 1 << 26
MAX_HEADER_BYTES = 1 << 20  # of a long name and the like; a damaged header may claim any size
# Types of members that extend the header of the next member. tarfile reads their data whole.
HEADER_TYPES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
RECENT_BYTES = 1 << 24  # of the members read last, to which links may lead
MAX_KEYS = 100_000  # of samples without an image or caption, that are remembered in case the rest comes later
REMEDY = "sort its members (tar --sort=name), or train on it as a local file"
NOT_BESIDE = f"in a stream, the members of a sample have to follow each other: {REMEDY}"
REPEATED = "The first one counts: give the others another key."
LINK = (
    "is a link to a file that comes later or too long before: store the files themselves (tar --dereference "
    "--hard-dereference), or train on it as a local file"
)


class StrictTarInfo(tarfile.TarInfo):
    """A member's header. Raises for one that is damaged or missing, which ``tarfile`` takes for the archive's end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> StrictTarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the real end, a block of zeros
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictTarInfo:
        header = super().frombuf(buf, encoding, errors)
        if header.type in HEADER_TYPES and header.size > MAX_HEADER_BYTES:
            raise tarfile.InvalidHeaderError("a header claims to be of many megabytes")  # type: ignore[attr-defined]
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.InvalidHeaderError("a member is sparse")  # type: ignore[attr-defined]
        return header


class EndOnce:
    """A file that returns b"" once at its end and then raises.

    tarfile itself would go on calling ``read`` until it has the size that a member's header claims.
    """

    def __init__(self, file: Any) -> None:
        self.file, self.ended = file, False

    def read(self, size: int) -> bytes:
        data: bytes = self.file.read(size)
        if not data and self.ended:
            raise tarfile.ReadError("unexpected end of data")
        self.ended = not data
        return data


class NotKept(LookupError):
    """A member of a sample cannot be read; the message continues a sentence that begins with its name."""


class Recent:
    """The bytes of the members read last, by name."""

    def __init__(self) -> None:
        self.members, self.size = OrderedDict[str, bytes](), 0

    def add(self, name: str, data: bytes) -> None:
        name = posixpath.normpath(name)
        self.size += len(data) - len(self.members.pop(name, b""))
        self.members[name] = data
        while self.size > RECENT_BYTES:
            self.size -= len(self.members.popitem(last=False)[1])


class Apart:
    """Finds samples whose members do not follow each other, among the first ``MAX_KEYS`` incomplete ones."""

    def __init__(self) -> None:
        self.incomplete, self.apart, self.example = set[int](), set[int](), ""

    def saw(self, key: str, members: dict[str, bytes]) -> bool:
        """Take note of a sample; whether members of its key have come before, apart from these."""
        number = hash(key)
        if number in self.incomplete:
            self.apart.add(number)
            self.example = self.example or key
            return True
        if len(self.incomplete) < MAX_KEYS and not ("image" in members and members.keys() & {"txt", "json"}):
            self.incomplete.add(number)
        return False

    def sentence(self) -> str:
        """What is wrong with the shard; "" if no sample was found apart."""
        if not self.apart:
            return ""
        samples = counted(len(self.apart), "sample")
        return (
            f"the members of {samples}, such as '{self.example}', do not follow each other, and a stream is read only "
            f"once: {REMEDY}"
        )


class TarReader:
    """Reads one archive.

    Attributes:
        count: how many samples it has given.
        format: what the file is, if it is no plain tar archive.
        leftovers: counts the members that belong to no sample.
        apart: finds samples whose members do not follow each other.
    """

    def __init__(self) -> None:
        self.count, self.leftovers, self.apart, self.recent = 0, Leftovers(), Apart(), Recent()
        self.format: Format | None = None

    def samples(
        self, file: Any, on_end: Callable[[], object] = lambda: None
    ) -> Iterator[tuple[str, dict[str, bytes], str]]:
        """(key, {kind: bytes}, why members may be missing) of every sample.

        An archive that is compressed with gzip, bzip2 or xz is decompressed.

        Args:
            file: has a method ``read``.
            on_end: called at the end of the archive, before a little of what follows it is read.

        Raises:
            tarfile.TarError, ValueError, OverflowError, RecursionError: if the archive is damaged; ``TAR_ERRORS``.
        """
        plain, self.format = decompressed(file)
        current, members, hint = "", dict[str, bytes](), ""
        with tarfile.open(fileobj=EndOnce(plain), mode="r|", tarinfo=StrictTarInfo) as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members = []  # or tarfile keeps every member in memory
                place = place_of(member.name)
                if place is None or not (is_stored_whole(member) or is_link(member)):
                    (self.leftovers.add_link(member.name) if is_link(member) else self.leftovers.add(member))
                    continue
                key, column = place
                if key != current and (members or hint):
                    yield self.sample(current, members, hint)
                    members, hint = {}, ""
                current, kind = key, KINDS[column]
                if kind in members:
                    self.leftovers.count(f"{kind} members of a sample that has one", readable(member.name), REPEATED)
                    continue
                try:
                    members[kind] = self.content(tar, member)
                except NotKept as error:
                    hint = f"its {readable(member.name)} {error}"
            if members or hint:
                yield self.sample(current, members, hint)
            on_end()
            # What follows may be cut off or come from a command that fails: the archive is whole all the same.
            with suppress(StreamFailed, *TAR_ERRORS):
                self.leftovers.add_rest(tar.fileobj.read(REST_BYTES))

    def content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        """A member's bytes; of a link, those of the member before that it leads to.

        Raises:
            NotKept: if there is none, or they are more than ``MAX_MEMBER_BYTES``.
        """
        data = self.recent.members.get(link_target(member)) if is_link(member) else None
        if data is None:
            file = None if is_link(member) else tar.extractfile(member)
            if file is None:
                raise NotKept(LINK)
            if member.size > MAX_MEMBER_BYTES:
                raise NotKept(f"has {member.size:,} bytes, more than the {MAX_MEMBER_BYTES:,} that a stream may have")
            data = file.read()
        self.recent.add(member.name, data)
        return data

    def sample(self, key: str, members: dict[str, bytes], hint: str) -> tuple[str, dict[str, bytes], str]:
        """Count a sample whose last member has come, and say why members of it may be missing."""
        self.count += 1
        self.leftovers.sample(key, [KINDS.index(kind) for kind in members])
        self.apart.saw(key, members)
        return key, members, hint or NOT_BESIDE

    def other_format(self) -> str:
        """What a file is that cannot be read as a tar archive, if that is known and not only that it is damaged."""
        return self.format.streamed() if self.format is not None and self.format.opened is None else ""
