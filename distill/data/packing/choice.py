"""Which pictures are left out of the shards, and which are for testing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from distill.data import images
from distill.data.check import difference_hash
from distill.data.packing.lookalikes import Known, groups
from distill.data.packing.row import Row
from distill.data.packing.samples import Samples
from distill.data.packing.source import say
from distill.data.shards import Shards
from distill.errors import BadSample, UserError
from distill.wording import counted

SPLIT_BY = ("file", "content")
FIRST_KEPT = ("test", "val", "")  # of duplicates, the one in the first of these splits is kept, then any other


@dataclass(frozen=True)
class Settings:
    """What is made of a source.

    Attributes:
        test_percent: how many percent of the pictures go to ``test-*.tar``; None keeps the source's own splits.
        split_by: "file" decides by a hash of the picture's file, so that equal files are on one side; "content" puts
            pictures that look alike on one side, too.
        drop_duplicates: whether a picture is left out that looks like another one of the source.
        dedup_against: shards; a picture that looks like one of theirs is left out.
        per_shard: samples a shard.

    Raises:
        UserError: if they make no sense.
    """

    test_percent: int | None = None
    split_by: str = "file"
    drop_duplicates: bool = False
    dedup_against: tuple[str, ...] = ()
    per_shard: int = 1000

    def __post_init__(self) -> None:
        if self.test_percent is not None and not 0 <= self.test_percent <= 99:
            raise UserError(f"--test-percent {self.test_percent} is no percentage.", "Give 0 to 99.")
        if self.per_shard < 1:
            raise UserError(f"A shard cannot hold {self.per_shard} samples.", "Give --per-shard 1 or more.")
        if self.split_by not in SPLIT_BY:
            raise UserError(f"There is no --split-by {self.split_by}.", "Give file or content.")
        if self.split_by == "content" and not self.test_percent:
            raise UserError("--split-by content splits nothing.", "Give --test-percent, too.")


@dataclass(frozen=True)
class Seen:
    """What is remembered of a picture.

    Attributes:
        reason: to leave it out, or "".
        share: 0 to 99, by a hash of its file.
        look: its difference hash, where it is needed.
        sha256: the first 64 bits.
    """

    reason: str
    share: int = 0
    look: int = 0
    sha256: int = 0


class Choice:
    """Says of each sample in which shards it goes.

    Args:
        samples: all of them, arranged.
        read: the picture's file of a row.
        settings: what is made of them.
        against: with pictures; what looks like one of them is left out.
    """

    def __init__(
        self, samples: Samples, read: Callable[[Row], bytes], settings: Settings, against: Shards | None
    ) -> None:
        self.samples, self.read, self.settings = samples, read, settings
        self.against = known_pictures(against) if against else None

    def stems(self, on_progress: Callable[[int], object]) -> Iterator[tuple[int, str, str]]:
        """(number of the sample, stem of its shards, reason to leave it out or "") of all samples, in their order.

        Args:
            on_progress: called with 1 for each picture that was looked at.
        """
        if self.settings.drop_duplicates or self.settings.split_by == "content":
            yield from self._compared(on_progress)
            return
        for i in range(len(self.samples)):
            row = self.samples.first(i)
            seen = self.look(row)
            on_progress(1)
            yield i, self.stem(row, seen.share), seen.reason

    def _compared(self, on_progress: Callable[[int], object]) -> Iterator[tuple[int, str, str]]:
        """As :meth:`stems`, after all pictures were looked at, which takes 17 bytes a picture."""
        n = len(self.samples)
        looks, sha256, shares = np.zeros(n, np.uint64), np.zeros(n, np.uint64), np.zeros(n, np.uint8)
        reasons: dict[int, str] = {}
        for i in range(n):
            seen = self.look(self.samples.first(i))
            looks[i], sha256[i], shares[i] = seen.look, seen.sha256, seen.share
            if seen.reason:
                reasons[i] = seen.reason
            on_progress(1)
        if self.settings.drop_duplicates:
            reasons |= self.duplicates(looks, reasons)
        if self.settings.split_by == "content":
            shares = common_shares(looks, sha256, shares)
        for i in range(n):
            yield i, self.stem(self.samples.first(i), int(shares[i])), reasons.get(i, "")

    def look(self, row: Row) -> Seen:
        """Read and decode a picture."""
        try:
            data = self.read(row)
        except BadSample as error:
            return Seen(error.bad.reason)
        except OSError as error:
            return Seen(f"the file cannot be read ({error.strerror})")
        except ValueError as error:
            return Seen(f"the file cannot be read ({error})")
        digest = hashlib.sha256(data).digest()
        share = int.from_bytes(digest) % 100
        try:
            image = images.decode(data)
        except ValueError as error:
            return Seen(f"the image {error}")
        if not images.extension_of(data):
            return Seen("it is of a format that shards do not hold")
        look = difference_hash(image)
        name = self.against.find(look) if self.against else ""
        return Seen(f"it looks like: {name}" if name else "", share, look, int.from_bytes(digest[:8]))

    def stem(self, row: Row, share: int) -> str:
        """The first part of the names of the shards that a picture goes to."""
        if self.settings.test_percent is None:
            return row.split or "train"
        return "test" if share < self.settings.test_percent else "train"

    def duplicates(self, looks: np.ndarray, bad: dict[int, str]) -> dict[int, str]:
        """{sample: reason} of those that look like one that is kept.

        Those in test splits are kept rather than those in training splits, and else those that the source has first.
        """
        known, found = Known(), dict[int, str]()
        keep_splits = self.settings.test_percent is None
        turns: dict[str, list[int]] = {split: [] for split in (*FIRST_KEPT, "train")}
        for i in self.samples.by_source():
            if i not in bad:
                turns[self.samples.first(i).split if keep_splits else ""].append(i)
        for i in (i for turn in turns.values() for i in turn):
            look = int(looks[i])
            if other := known.find(look):
                found[i] = f"it looks like: {self.samples.first(int(other)).name}"
            else:
                known.add(look, str(i))
        return found


def common_shares(looks: np.ndarray, sha256: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[n] uint8: for each picture, the share of the one with the smallest hash among those that look alike."""
    group = groups(looks)
    order = np.lexsort((sha256, group))
    first = order[np.unique(group[order], return_index=True)[1]]
    return shares[first][np.unique(group, return_inverse=True)[1]]


def known_pictures(shards: Shards) -> Known:
    """The pictures of some shards. Those that do not decode are counted for the user."""
    known, bad = Known(), list[str]()
    for i in range(len(shards)):
        try:
            sample = shards.read(i, ("image",))
            known.add(difference_hash(images.decode(sample.image or b"")), f"{sample.shard}:{sample.key}")
        except (BadSample, ValueError) as error:
            bad.append(f"{shards.key(i)}: {error}")
    shards.close()
    if bad or shards.faults:
        lost = [*bad, *(f"{fault.shard} {fault.key}: {fault.reason}" for fault in shards.faults)]
        say(f"{counted(len(lost), 'picture')} of --dedup-against cannot be compared with, such as {lost[0]}")
    return known
