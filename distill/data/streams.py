"""Training on streams: remote shards that are read from end to end and drawn at random, again and again.

The samples of a stream cannot be addressed, so their order is random: each loader process draws a shard, reads it and
shuffles its samples with those of the shards before. Which samples have been used is not recorded, so a run that is
resumed draws anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import count, islice

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from distill.data.batch import Batch
from distill.data.index import TAR_ERRORS
from distill.data.members import lost, no_samples
from distill.data.openers import StreamFailed
from distill.data.remote import RetryPolicy, Stream
from distill.data.sample import Sample
from distill.data.shard_names import without_secrets
from distill.data.tar_stream import TarReader
from distill.data.transform import TrainingPair, Transform
from distill.errors import Bad, BadSample, UserError
from distill.wording import counted

SHUFFLE_BUFFER = 1000  # samples, from which the next one is drawn
SHUFFLE_BUFFER_BYTES = 1 << 28  # the most that these samples may take together
MAX_FAILED_SHARDS = 10  # in a row, after which a run stops
MAX_WAIT_FAILURES = 4  # after more failed shards in a row, the wait before the next one does not grow further
SPARE_SAMPLES = 1000  # tried for a batch, beyond twice its size, before too few of them can be used


def read_samples(
    address: str, policy: RetryPolicy, on_bad: Callable[[Bad], object] = lambda bad: None
) -> Generator[Sample]:
    """The samples of one shard, each as soon as it has arrived.

    The members of a sample have to follow each other, as WebDataset prescribes.

    Args:
        address: of the shard.
        policy: when to try again and when to give up.
        on_bad: called at the end of a shard of which some members could not be used, with the reason.

    Raises:
        BadSample: for the shard as a whole, if it cannot be read to its end; the samples before have been given.
    """
    stream, name, tar = Stream(address, policy), without_secrets(address), TarReader()
    try:
        for key, members, hint in tar.samples(stream, stream.last_try):
            yield Sample(key, name, members.get("image"), members.get("txt"), members.get("json"), hint)
            stream.last_sample = time.monotonic()
    except StreamFailed as error:
        raise BadSample(name, "", f"it cannot be read: {error}") from error
    except TAR_ERRORS as error:
        damaged = f"the archive is cut off or damaged after {counted(tar.count, 'sample')}: {error}"
        raise BadSample(name, "", tar.other_format() or damaged) from error
    finally:
        stream.close()
    leftovers = tar.leftovers.found()
    if not tar.count:
        raise BadSample(name, "", no_samples(leftovers))
    for reason in filter(None, (tar.apart.sentence(), lost(leftovers).removesuffix("."))):
        on_bad(Bad(name, "", reason))


def read_shards(
    addresses: Iterable[str], policy: RetryPolicy, on_bad: Callable[[Bad], object], repeated: int = 0
) -> Generator[Sample]:
    """The samples of shards, one shard after the other. Shards that cannot be read are skipped.

    Args:
        addresses: of the shards.
        policy: when to try again and when to give up.
        on_bad: called with the record of each shard that cannot be read, or not in all its parts.
        repeated: the number of different shards, where ``addresses`` is an endless sequence that repeats them; there
            is then a wait while several of them fail. 0 where each address comes once.

    Raises:
        UserError: if too many shards in a row fail, or no sample comes for ``policy.sample_timeout`` seconds.
    """
    failures, failed, any_sample, last_sample = 0, set[str](), False, time.monotonic()
    for address in addresses:
        try:
            for sample in read_samples(address, policy, on_bad):
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
        f"{counted(failures, 'stream', 'streams in a row')} could not be read, the last: {last.shard}: {last.reason}.",
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
        # What is wrong with a shard as a whole says more than what is wrong with one of its samples.
        last = next((one for one in reversed(bad) if not one.key), bad[-1] if bad else None)
        name = f"{last.shard} {last.key}".strip() if last else ""
        raise UserError(
            f"The streams bring too few samples that differ and can be used for a batch of {self.size} a process"
            f"{f'; the last of the others: {name}: {last.reason}' if last else ''}.",
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
