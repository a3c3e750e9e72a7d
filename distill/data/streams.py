"""Training on streams: remote shards that are read from end to end and drawn at random, again and again.

The samples of a stream cannot be addressed, so their order is random: each loader process draws a shard, reads it and
shuffles its samples with those of the shards before. Which samples have been used is not recorded, so a run that is
resumed draws anew.
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
from distill.data.index import KINDS, NO_SAMPLES, TAR_ERRORS, sample_member
from distill.data.openers import StreamFailed
from distill.data.remote import RetryPolicy, Stream
from distill.data.shard_names import without_secrets
from distill.data.shards import Sample
from distill.data.transform import TrainingPair, Transform
from distill.errors import Bad, BadSample, UserError

SHUFFLE_BUFFER = 1000  # samples, from which the next one is drawn
SHUFFLE_BUFFER_BYTES = 1 << 28  # the most that these samples may take together
MAX_MEMBER_BYTES = 1 << 26
MAX_HEADER_BYTES = 1 << 20  # of a long name and the like; a damaged header may claim any size
# Types of members that extend the header of the next member. tarfile reads their data whole.
HEADER_TYPES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
MAX_FAILED_SHARDS = 10  # in a row, after which a run stops
MAX_WAIT_FAILURES = 4  # after more failed shards in a row, the wait before the next one does not grow further
SPARE_SAMPLES = 1000  # tried for a batch, beyond twice its size, before too few of them can be used


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


def read_samples(address: str, policy: RetryPolicy) -> Generator[Sample]:
    """The samples of one shard, each as soon as it has arrived.

    The members of a sample have to follow each other, as WebDataset prescribes.

    Raises:
        BadSample: for the shard as a whole, if it cannot be read to its end; the samples before have been given.
    """
    stream, name, samples = Stream(address, policy), without_secrets(address), 0
    try:
        for key, members in group_by_sample(stream):
            samples += 1
            yield Sample(key, name, members.get("image"), members.get("txt"), members.get("json"))
            stream.last_sample = time.monotonic()
    except StreamFailed as error:
        raise BadSample(name, "", f"it cannot be read: {error}") from error
    except TAR_ERRORS as error:
        raise BadSample(name, "", f"the archive is cut off or damaged after {samples} samples: {error}") from error
    finally:
        stream.close()
    if not samples:
        raise BadSample(name, "", NO_SAMPLES)


def group_by_sample(file: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {kind: bytes}) of every sample of a tar file. A member over ``MAX_MEMBER_BYTES`` is b"": a bad sample.

    Args:
        file: has a method ``read``.

    Raises:
        tarfile.TarError, ValueError, OverflowError, RecursionError: if the archive is damaged; ``TAR_ERRORS``.
    """
    current, members = "", dict[str, bytes]()
    with tarfile.open(fileobj=EndOnce(file), mode="r|", tarinfo=StrictTarInfo) as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # or tarfile keeps every member in memory
            key_and_column = sample_member(member)
            if key_and_column is None:
                continue
            key, column = key_and_column
            if key != current and members:
                yield current, members
                members = {}
            current, data = key, tar.extractfile(member)
            if KINDS[column] not in members and data is not None:
                members[KINDS[column]] = data.read() if member.size <= MAX_MEMBER_BYTES else b""
    if members:
        yield current, members


def read_shards(
    addresses: Iterable[str], policy: RetryPolicy, on_bad: Callable[[Bad], object], repeated: int = 0
) -> Generator[Sample]:
    """The samples of shards, one shard after the other. Shards that cannot be read are skipped.

    Args:
        addresses: of the shards.
        policy: when to try again and when to give up.
        on_bad: called with the record of each shard that cannot be read.
        repeated: the number of different shards, where ``addresses`` is an endless sequence that repeats them; there
            is then a wait while several of them fail. 0 where each address comes once.

    Raises:
        UserError: if too many shards in a row fail, or no sample comes for ``policy.sample_timeout`` seconds.
    """
    failures, failed, any_sample, last_sample = 0, set[str](), False, time.monotonic()
    for address in addresses:
        try:
            for sample in read_samples(address, policy):
                yield sample
                failures, any_sample, last_sample = 0, True, time.monotonic()
                failed.clear()
        except BadSample as error:
            on_bad(error.bad)
            failures, last_error = failures + 1, error
            failed.add(address)
            # One bad shard that is drawn many times in a row does not show that the others cannot be read.
            different = min(MAX_FAILED_SHARDS, repeated or MAX_FAILED_SHARDS)
            many = failures >= MAX_FAILED_SHARDS and len(failed) >= different
            if many or time.monotonic() - last_sample > policy.sample_timeout:
                raise streams_failed(failures, error.bad) from error
            if repeated and len(failed) >= min(2, repeated):
                policy.wait(min(failures, MAX_WAIT_FAILURES))
    if failures and not any_sample:
        raise streams_failed(failures, last_error.bad) from last_error


def streams_failed(failures: int, last: Bad) -> UserError:
    """The error for streams that give no samples.

    Args:
        failures: how many streams failed in a row.
        last: the record of the last of them.
    """
    return UserError(
        f"{failures} streams in a row could not be read, the last: {last.shard}: {last.reason}.",
        "See to the network and the server; a run that has begun goes on with --resume.",
    )


class StreamDataset(IterableDataset[list[Batch | UserError]]):
    """Endless batches of samples from streams, each batch in pieces.

    Where the streams fail, the last item is a list of one :class:`~distill.errors.UserError`.

    Args:
        addresses: of the shards.
        policy: when to try a stream again and when to give it up.
        transform: turns samples into batches.
        size: samples a batch.
        seed: numbers that, together with the loader process's, seed the random draws.
        pieces: how many equal pieces a batch is divided into.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        policy: RetryPolicy,
        transform: Transform,
        size: int,
        seed: tuple[int, ...],
        pieces: int = 1,
    ) -> None:
        self.addresses, self.policy, self.transform = tuple(addresses), policy, transform
        self.size, self.seed, self.pieces = size, seed, pieces

    def __iter__(self) -> Iterator[list[Batch | UserError]]:
        worker = get_worker_info()
        random = np.random.default_rng((*self.seed, worker.id if worker else 0))
        bad: list[Bad] = []
        samples = self._shuffled(random, bad)
        try:
            while True:
                pairs = self._pairs(samples, random, bad)
                yield self._pieces(pairs, bad)
                bad.clear()
        except UserError as error:  # given, not raised: the loader would wrap it into an error with a traceback
            yield [error]

    def _pieces(self, pairs: list[TrainingPair], bad: list[Bad]) -> list[Batch | UserError]:
        """The pairs of a batch, collated in pieces. Mixup also needs the neighbour of each piece's last image."""
        size, batches = self.size // self.pieces, list[Batch | UserError]()
        for first in range(0, self.size, size):
            following = (first + size) % self.size
            neighbour = pairs[following : following + 1] if self.transform.options.mixup else []
            batches.append(self.transform.collate(pairs[first : first + size] + neighbour, () if first else bad))
        return batches

    def _pairs(self, samples: Iterator[Sample], random: np.random.Generator, bad: list[Bad]) -> list[TrainingPair]:
        """The pairs of the next batch. A sample that it already has is left out, as it would be its own negative."""
        pairs, chosen = list[TrainingPair](), set[tuple[str, str]]()
        for sample in islice(samples, 2 * self.size + SPARE_SAMPLES):
            if (sample.shard, sample.key) in chosen:
                continue
            # A random number takes the place of the epoch, so that a sample has another view and caption each time.
            number = int(random.integers(2**31))
            try:
                pairs.append(self.transform.pair(sample, number, number))
            except BadSample as error:
                bad.append(error.bad)
                continue
            chosen.add((sample.shard, sample.key))
            if len(pairs) == self.size:
                return pairs
        raise UserError(
            f"The streams bring too few samples that differ and can be used for a batch of {self.size} a process"
            f"{f'; the last of the others: {bad[-1].shard} {bad[-1].key}: {bad[-1].reason}' if bad else ''}.",
            "Name more shards, repair them, or choose a smaller train.batch_size.",
        )

    def _shuffled(self, random: np.random.Generator, bad: list[Bad]) -> Iterator[Sample]:
        """Samples of shards that are drawn at random, each drawn at random from a shuffle buffer."""
        addresses = (self.addresses[int(random.integers(len(self.addresses)))] for _ in count())
        buffer, size = list[Sample](), 0
        for sample in read_shards(addresses, self.policy, bad.append, len(self.addresses)):
            buffer.append(sample)
            size += sample.size
            while len(buffer) >= SHUFFLE_BUFFER or size > SHUFFLE_BUFFER_BYTES:
                i = int(random.integers(len(buffer)))
                buffer[i], buffer[-1] = buffer[-1], buffer[i]
                size -= buffer[-1].size
                yield buffer.pop()
