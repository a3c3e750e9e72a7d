"""Training on streams: their samples are not known beforehand, and the sample order is random."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from distill.data.batch import Batch
from distill.data.captions import Caption, Captions
from distill.data.loading import load_batches
from distill.data.pairs import Part
from distill.data.remote import RetryPolicy
from distill.data.shard_names import address_scheme, stream_addresses
from distill.data.streams import StreamDataset, read_shards
from distill.errors import Bad, BadSample, UserError
from distill.resolved import ResolvedRecipe
from distill.training.health import check_bad_samples, max_bad_samples
from distill.training.setup import Networks, transform_of
from distill.wording import counted
from launch.launcher import Job
from students import Tokenizer

TOKENIZER_SAMPLES = 20_000  # few, because the images are transferred along with the captions


class StreamSet:
    """A :class:`~distill.training.training_set.TrainingSet` of streams."""

    def __init__(self, resolved: ResolvedRecipe) -> None:
        recipe = resolved.recipe
        self.resolved, self.recipe, self.addresses = resolved, recipe, stream_addresses(recipe.data.train)
        self.samples, self.shards = recipe.total_steps(0) * recipe.train.batch_size, len(self.addresses)
        self.pictures = 0
        self.commands = [address for address in self.addresses if address_scheme(address) == "pipe"]
        self.policy = RetryPolicy(recipe.data.timeout, recipe.data.retries)

    @classmethod
    def open(cls, resolved: ResolvedRecipe) -> StreamSet:
        """The streams that a recipe names."""
        return cls(resolved)

    @classmethod
    def open_again(cls, resolved: ResolvedRecipe, run: Path) -> StreamSet:
        """The streams of a run: the recipe names them."""
        return cls(resolved)

    def preflight(self) -> list[Bad]:
        """Read the first sample, to raise if no stream can be read."""
        bad: list[Bad] = []
        with closing(read_shards(self.addresses, self.policy, self._record_bad_shard(bad))) as first:
            next(first)
        print(
            f"Training on {counted(self.shards, 'stream')}: shards are drawn at random with replacement. A run "
            "continued with --resume is exact in everything but which samples come next.",
            file=sys.stderr,
        )
        return bad

    def continue_with(self, run: Path) -> None:
        """Do nothing: only the addresses of streams are known, and those are compared as part of the recipe."""

    def captions(self, samples: int) -> Iterator[Caption]:
        captions, last = Captions.from_table(self.recipe.data), Bad("", "", "")
        count = 0
        with closing(read_shards(self.addresses, self.policy, self._record_bad_shard([]))) as stream:
            for sample in islice(stream, min(samples, TOKENIZER_SAMPLES)):
                try:
                    captions_of_sample = captions.read(sample)
                except BadSample as error:
                    last = error.bad
                    continue
                count += len(captions_of_sample)
                yield from captions_of_sample
        if not count:
            raise UserError(
                f"There is no caption in the streams; the last sample: {last.shard} {last.key}: {last.reason}.",
                "Correct data.train, data.caption_keys or data.languages.",
            )

    def fill_caches(self, networks: Networks, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Do nothing: teachers have no cache when training on streams."""
        return {}, {}

    def save(self, run: Path) -> None:
        """Do nothing: the recipe names the streams."""

    def batches(self, tokenizer: Tokenizer | None, part: Part, pin: bool) -> Generator[list[Batch]]:
        transform = transform_of(self.resolved, tokenizer)
        size = self.recipe.train.batch_size // part.world
        seed = self.recipe.train.seed, part.start, part.rank
        streams = StreamDataset(self.addresses, self.policy, transform, size, seed, part.pieces)
        with closing(load_batches(streams, self.recipe.data.workers, pin)) as loaded:
            yield from islice(loaded, part.stop - part.start)

    def keys(self, step: int) -> list[str]:
        return []

    def close(self) -> None:
        """Do nothing: loader processes close their own connections."""

    def _record_bad_shard(self, bad: list[Bad]) -> Callable[[Bad], None]:
        """A callback that appends a skipped shard to ``bad``, and raises ``UserError`` above the recipe's limit."""

        def record(shard: Bad) -> None:
            bad.append(shard)
            check_bad_samples(len(bad), max_bad_samples(self.recipe, self.samples), shard, "before training")
            print(f"{shard.shard} is passed over, at least in part: {shard.reason}", file=sys.stderr)

        return record
