"""Training on streams: shards that are far away and read from end to end, drawn again and again.

A stream cannot be addressed, so its order is a matter of chance: each loader process draws a shard, reads it and
mixes its samples with those of others; nobody notes which have been shown. A run that is resumed draws anew.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from distill.data.batch import Batch
from distill.data.index import DAMAGED, KINDS, UNNAMED, named
from distill.data.openers import Lost
from distill.data.remote import Patience, Stream
from distill.data.shard_names import shown
from distill.data.shards import Sample
from distill.data.transform import ShownPair, Transform
from distill.errors import Bad, BadSample, UserError

MIXED, MIXED_BYTES = 1000, 1 << 28  # samples among which the next one is drawn, and the most they may take
LARGEST = 1 << 26  # bytes of a member
LONGEST_HEADER = 1 << 20  # bytes of a name and the like; a header may claim any number
# Members that are headers of the next one, which tarfile reads whole.
HEADERS_ONLY = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
IN_A_ROW = 10  # shards that cannot be read after which a run stops
LONGEST_PAUSE = 4  # doublings of the wait after a shard that cannot be read
ATTEMPTS = 1000  # samples beyond twice a batch's that are tried for it


class Header(tarfile.TarInfo):
    """A member's header; one that is damaged or missing is an error, which ``tarfile`` takes for the archive's end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Header:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the real end, a block of zeros
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
        header = super().frombuf(buf, encoding, errors)
        if header.type in HEADERS_ONLY and header.size > LONGEST_HEADER:
            raise tarfile.InvalidHeaderError("a header claims to be of many megabytes")  # type: ignore[attr-defined]
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.InvalidHeaderError("a member is sparse")  # type: ignore[attr-defined]
        return header


class Ending:
    """A file whose end is an error for whoever reads on: tarfile would, for as long as a header says."""

    def __init__(self, file: Any) -> None:
        self.file, self.over = file, False

    def read(self, size: int) -> bytes:
        data: bytes = self.file.read(size)
        if not data and self.over:
            raise tarfile.ReadError("unexpected end of data")
        self.over = not data
        return data


def samples(address: str, patience: Patience) -> Generator[Sample]:
    """The samples of a shard, as it is read.

    Members of one sample have to follow each other, as WebDataset has it.

    Raises:
        BadSample: for the shard as a whole, if it cannot be read to its end; its samples so far have been given.
    """
    stream, name, known = Stream(address, patience), shown(address), 0
    try:
        for key, parts in grouped(stream):
            known += 1
            yield Sample(key, name, parts.get("image"), parts.get("txt"), parts.get("json"))
            stream.since = time.monotonic()
    except Lost as error:
        raise BadSample(name, "", f"it cannot be read: {error}") from error
    except DAMAGED as error:
        raise BadSample(name, "", f"the archive is cut off or damaged after {known} samples: {error}") from error
    finally:
        stream.close()
    if not known:
        raise BadSample(name, "", UNNAMED)


def grouped(file: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, members by kind) of every sample of a tar file; one that is too large is empty, and so cannot be used."""
    current, parts = "", dict[str, bytes]()
    with tarfile.open(fileobj=Ending(file), mode="r|", tarinfo=Header) as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # or tarfile remembers every member it has seen
            found = named(member)
            if found is None:
                continue
            key, kind = found
            if key != current and parts:
                yield current, parts
                parts = {}
            current, data = key, tar.extractfile(member)
            if KINDS[kind] not in parts and data is not None:
                parts[KINDS[kind]] = data.read() if member.size <= LARGEST else b""
    if parts:
        yield current, parts


def one_by_one(
    addresses: Iterable[str], patience: Patience, tell: Callable[[Bad], object], known: int = 0
) -> Generator[Sample]:
    """The samples of some shards, one shard after the other; those that cannot be read are told and passed over.

    Args:
        addresses: of the shards.
        patience: with faults.
        tell: is given those that cannot be read.
        known: where shards come again and again, how many there are; then there is a pause where several are bad.

    Raises:
        UserError: if none can be read, or for too long none.
    """
    failed, different, came, since = 0, set[str](), False, time.monotonic()
    for address in addresses:
        try:
            for sample in samples(address, patience):
                yield sample
                failed, came, since = 0, True, time.monotonic()
                different.clear()
        except BadSample as error:
            tell(error.bad)
            failed, last = failed + 1, error
            different.add(address)
            # One that is drawn again and again does not speak for the others.
            many = failed >= IN_A_ROW and len(different) >= min(IN_A_ROW, known or IN_A_ROW)
            if many or time.monotonic() - since > patience.fruitless:
                raise nothing(failed, error.bad) from error
            if known and len(different) >= min(2, known):
                patience.pause(min(failed, LONGEST_PAUSE))
    if failed and not came:
        raise nothing(failed, last.bad) from last


def nothing(failed: int, last: Bad) -> UserError:
    """What to raise where streams bring nothing."""
    return UserError(
        f"{failed} streams in a row could not be read, the last: {last.shard}: {last.reason}.",
        "See to the network and the server; a run that has begun goes on with --resume.",
    )


class StreamDataset(IterableDataset[list[Batch | UserError]]):
    """Batches of what streams bring, in pieces, without end.

    Args:
        addresses: of the shards.
        patience: with faults.
        transform: makes batches of samples.
        size: samples a batch.
        seed: numbers on which, together with the loader process, depends what is drawn.
        pieces: in which a batch comes.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        patience: Patience,
        transform: Transform,
        size: int,
        seed: tuple[int, ...],
        pieces: int = 1,
    ) -> None:
        self.addresses, self.patience, self.transform = tuple(addresses), patience, transform
        self.size, self.seed, self.pieces = size, seed, pieces

    def __iter__(self) -> Iterator[list[Batch | UserError]]:
        worker = get_worker_info()
        random = np.random.default_rng((*self.seed, worker.id if worker else 0))
        bad: list[Bad] = []
        drawn = self._mixed(random, bad)
        try:
            while True:
                pairs = self._pairs(drawn, random, bad)
                yield self._pieces(pairs, bad)
                bad.clear()
        except UserError as error:  # raised in the main process: a loader process would wrap it in its traceback
            yield [error]

    def _pieces(self, pairs: list[ShownPair], bad: list[Bad]) -> list[Batch | UserError]:
        """A batch in pieces; images are mixed with their neighbours in it, the last with the first."""
        size, found = self.size // self.pieces, list[Batch | UserError]()
        for first in range(0, self.size, size):
            after = (first + size) % self.size
            neighbour = pairs[after : after + 1] if self.transform.drawing.mixup else []
            found.append(self.transform.collate(pairs[first : first + size] + neighbour, () if first else bad))
        return found

    def _pairs(self, drawn: Iterator[Sample], random: np.random.Generator, bad: list[Bad]) -> list[ShownPair]:
        """The next of them, no sample twice: it would be its own negative."""
        pairs, inside = list[ShownPair](), set[tuple[str, str]]()
        for sample in islice(drawn, 2 * self.size + ATTEMPTS):
            if (sample.shard, sample.key) in inside:
                continue
            # Every showing has views and captions of its own, as if it were in an epoch of its own.
            number = int(random.integers(2**31))
            try:
                pairs.append(self.transform.pair(sample, number, number))
            except BadSample as error:
                bad.append(error.bad)
                continue
            inside.add((sample.shard, sample.key))
            if len(pairs) == self.size:
                return pairs
        raise UserError(
            f"The streams bring too few samples that differ and can be used for a batch of {self.size} a process"
            f"{f'; the last of the others: {bad[-1].shard} {bad[-1].key}: {bad[-1].reason}' if bad else ''}.",
            "Name more shards, repair them, or choose a smaller train.batch_size.",
        )

    def _mixed(self, random: np.random.Generator, bad: list[Bad]) -> Iterator[Sample]:
        """Samples of shards drawn at random, each drawn from the next few."""
        places = (self.addresses[int(random.integers(len(self.addresses)))] for _ in count())
        kept, taken = list[Sample](), 0
        for sample in one_by_one(places, self.patience, bad.append, len(self.addresses)):
            kept.append(sample)
            taken += sample.size
            while len(kept) >= MIXED or taken > MIXED_BYTES:
                place = int(random.integers(len(kept)))
                kept[place], kept[-1] = kept[-1], kept[place]
                taken -= kept[-1].size
                yield kept.pop()
