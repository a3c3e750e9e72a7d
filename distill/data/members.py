"""Members of a shard by their names: the sample that a member belongs to, and a count of those that belong to none.

The rule is WebDataset's: a sample's key is a member's name up to the first dot of its base name.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from distill.data.images import EXTENSIONS, IGNORED_FOLDERS, is_ignored
from distill.wording import counted

KINDS = ("image", "txt", "json")  # the members of a sample that are read
CLUTTER_MARKS = ("._", *IGNORED_FOLDERS)  # one of these is in every name that is_ignored() takes
MAX_GROUPS = 50  # of leftover members that are told apart
MAX_ENDINGS = 10_000  # with further dots, that are told apart while a shard is read
KEYS_AN_ENDING = 8  # of an ending with further dots, which are looked for among the samples
MANY = "members with further endings"
FURTHER_DOT = (
    "A sample's key ends at the first dot of a name: rename these, or make new shards of these: distill data pack."
)
HIDDEN = "A name that begins with a dot has no key: rename them."
LINK = "Store what the links lead to: tar --dereference."
JOINED = "Of archives joined with cat only the first is read: name each of them, or join them with tar --concatenate."
SPARSE = "Make the archive without tar's --sparse."


@dataclass(frozen=True)
class Leftover:
    """Members that belong to no sample, of one group.

    Attributes:
        members: what they are, such as "*.jpg whose name has a further dot".
        count: how many there are.
        example: the name of one of them.
        remedy: one sentence on what to do, where they are images and captions that samples probably lack; "" for
            members that nobody expects to be read, such as ``KEY.cls``.
    """

    members: str
    count: int
    example: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.members} ({self.count}, such as {self.example})"


def is_clutter(name: str) -> bool:
    """:func:`~distill.data.images.is_ignored`, faster for the names of most members."""
    return any(mark in name for mark in CLUTTER_MARKS) and is_ignored(name)


def split_name(name: str) -> tuple[str, str]:
    """The key and the ending of a member's name; ("", "") if it has no key or no ending."""
    split = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]*)", name)
    return (readable(split[1]), split[2].lower()) if split else ("", "")


def readable(name: str) -> str:
    """A name as valid text. The bytes of a name need not be UTF-8; views are drawn from a key's characters."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def column_of(extension: str) -> int | None:
    """The column in ``KINDS`` of members with this extension, in small letters; None for extensions not read."""
    if extension in EXTENSIONS:
        return 0
    return KINDS.index(extension) if extension in KINDS[1:] else None


def place_of(name: str) -> tuple[str, int] | None:
    """The key of the sample that a member of this name belongs to, and its column in ``KINDS``; None if to none."""
    key, ending = split_name(name)
    column = column_of(ending)
    return None if column is None or is_clutter(name) else (key, column)


def readable_start(rest: bytes) -> str:
    """The first name in bytes that may be an archive, or what else they begin with."""
    start = rest.lstrip(b"\0")[:40].partition(b"\0")[0].decode("utf-8", "backslashreplace")
    return start if start.isprintable() else ascii(start)


def last_extension(name: str) -> str:
    """What follows the last dot of a member's base name, in small letters."""
    base = name.rpartition("/")[2]
    return readable(base.rpartition(".")[2].lower()) if "." in base else ""


def group_of(extension: str) -> str:
    """What members with this extension are called."""
    return f"*.{extension}" if extension else "members without an ending"


def is_stored_whole(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file whose bytes stand in the archive as they are."""
    return member.isfile() and not member.issparse()


@dataclass
class Group:
    """The number of members of a group, and the name of one of them."""

    example: str
    count: int = 0


@dataclass
class Dotted(Group):
    """Members with one ending that has a further dot, such as "mask.png" or "5_0001.jpg"."""

    asked: int = 0  # keys that were looked for among the samples
    beside: int = 0  # of these, samples that have another member of the same kind


@dataclass
class Leftovers:
    """Counts members that belong to no sample, in groups; memory is bounded by ``MAX_ENDINGS``.

    ``KEY.mask.png`` beside ``KEY.png`` is one of WebDataset's longer endings, which nobody expects to be read. But
    ``photo_v1.5_0001.jpg`` is a picture that its owner takes for a sample. The first stands beside a member of the
    same kind, and what follows the first dot begins with a letter.
    """

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)  # by what they are and the remedy
    dotted: dict[str, Dotted] = field(default_factory=dict)
    waiting: dict[str, list[tuple[Dotted, int]]] = field(default_factory=dict)  # by key: (ending, column in KINDS)

    def add(self, member: tarfile.TarInfo) -> None:
        """Count a member that belongs to no sample and is no link; folders do not count."""
        if is_stored_whole(member) or is_clutter(member.name):
            self.add_name(member.name)
        elif not member.isdir():
            name, extension = readable(member.name), last_extension(member.name)
            if member.issparse() and column_of(extension) is not None:
                self.count(f"{group_of(extension)} that are stored as sparse files", name, SPARSE)
            else:
                self.count(f"{group_of(extension)} that are no plain files", name)

    def add_link(self, name: str) -> None:
        """Count a link that belongs to no sample, or whose target is not known."""
        if place_of(name) is None:
            self.add_name(name)
        else:
            self.count(
                f"{group_of(last_extension(name))} that are links to nothing in the shard", readable(name), LINK
            )

    def add_name(self, name: str) -> None:
        """Count a member of a name that belongs to no sample."""
        extension, (key, ending) = last_extension(name), split_name(name)
        column, group, name = column_of(extension), group_of(extension), readable(name)
        if is_clutter(name):
            self.count("files that programs leave beside data", name)
        elif column is None:
            self.count(group, name)
        elif not key:
            self.count(f"{group} whose name begins with a dot", name, HIDDEN)
        elif len(self.dotted) < MAX_ENDINGS or ending in self.dotted:
            self.add_dotted(key, ending, column, name)
        else:
            self.count(f"{group} whose name has a further dot", name, FURTHER_DOT)

    def add_dotted(self, key: str, ending: str, column: int, name: str) -> None:
        one = self.dotted.setdefault(ending, Dotted(name))
        one.count += 1
        if one.asked < KEYS_AN_ENDING:
            one.asked += 1
            self.waiting.setdefault(key, []).append((one, column))

    def count(self, members: str, example: str, remedy: str = "", number: int = 1) -> None:
        """Add to the count of a group."""
        group = self.groups.get((members, remedy))
        if group is None:
            members = members if len(self.groups) < MAX_GROUPS else MANY
            group = self.groups.setdefault((members, remedy), Group(example))
        group.count += number

    def add_rest(self, rest: bytes) -> None:
        """Take note of what follows the end of the archive; zeros do not count."""
        if rest.strip(b"\0"):
            self.count("further data after the archive's end", readable_start(rest), JOINED)

    def sample(self, key: str, columns: Collection[int]) -> None:
        """Take note of a sample of the shard and the columns in ``KINDS`` of its members."""
        for one, column in self.waiting.pop(key, ()):
            one.beside += any((column == 0) == (other == 0) for other in columns)

    def found(self) -> tuple[Leftover, ...]:
        """All groups, first those with a remedy, then the larger ones."""
        every = Leftovers()
        for (members, remedy), group in self.groups.items():
            every.count(members, group.example, remedy, group.count)
        for ending, one in self.dotted.items():
            if ending[:1].isalpha() and 2 * one.beside >= one.asked:
                every.count(f"*.{readable(ending)}", one.example, number=one.count)
            else:
                called = group_of(last_extension(ending))
                every.count(f"{called} whose name has a further dot", one.example, FURTHER_DOT, one.count)
        return every.ordered()

    def ordered(self) -> tuple[Leftover, ...]:
        """The groups that are counted already, first those with a remedy, then the larger ones."""
        groups = [Leftover(what, one.count, one.example, remedy) for (what, remedy), one in self.groups.items()]
        return tuple(sorted(groups, key=lambda one: (not one.remedy, -one.count, one.members)))


def together(leftovers: Iterable[Leftover]) -> tuple[Leftover, ...]:
    """The leftover members of several shards: groups of the same members added up."""
    every = Leftovers()
    for one in leftovers:
        every.count(one.members, one.example, one.remedy, one.count)
    return every.ordered()


def lost(leftovers: Iterable[Leftover]) -> str:
    """One line about images and captions that belong to no sample, with what to do; "" if there are none."""
    groups = [one for one in leftovers if one.remedy]
    if not groups:
        return ""
    number = counted(sum(one.count for one in groups), "member belongs", "members belong")
    remedies = " ".join(dict.fromkeys(one.remedy for one in groups))
    return f"{number} to no sample: {'; '.join(map(str, groups))}. {remedies}"


def no_samples(leftovers: Iterable[Leftover]) -> str:
    """Why a shard whose members belong to no sample has none, as part of a sentence."""
    held = [*leftovers]
    has = "; ".join(map(str, held[:5])) + (f" and {counted(len(held) - 5, 'other group')}" if len(held) > 5 else "")
    reason = f"no member is named KEY.jpg, KEY.png or the like, KEY.txt or KEY.json; it holds {has or 'no files'}"
    remedy = held[0].remedy.removesuffix(".") if held else ""
    return f"{reason} ({remedy})" if remedy else reason
