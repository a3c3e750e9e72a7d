"""Training on streams: nothing is known beforehand, and what is shown is a matter of chance."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from distill.config import Recipe
from distill.data.batch import Batch
from distill.data.captions import Tokenizer
from distill.data.loading import batches
from distill.data.remote import Patience
from distill.data.shard_names import addresses, scheme_of
from distill.data.streams import StreamDataset, one_by_one
from distill.errors import Bad, BadSample, UserError
from distill.train import setup
from distill.train.health import most_bad, refuse_too_many
from distill.train.training_set import Part
from launch.job import Job

TOKENIZER_SAMPLES = 20_000  # streams bring images along with the captions


class StreamSet:
    """A :class:`~distill.train.training_set.TrainingSet` of streams."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.addresses = recipe, addresses(recipe.data.train)
        self.samples, self.shards = recipe.train.total_steps(0) * recipe.train.batch_size, len(self.addresses)
        self.commands = [address for address in self.addresses if scheme_of(address) == "pipe"]
        self.patience = Patience(recipe.data.timeout, recipe.data.retries)

    @classmethod
    def of(cls, recipe: Recipe) -> StreamSet:
        return cls(recipe)

    @classmethod
    def load(cls, recipe: Recipe, run: Path) -> StreamSet:
        return cls(recipe)

    def check(self) -> list[Bad]:
        """Whether the first stream brings anything."""
        bad: list[Bad] = []
        with closing(one_by_one(self.addresses, self.patience, self._counted(bad))) as first:
            next(first)
        print(
            f"Training on {self.shards} streams: shards are drawn at random, again and again. Going on with --resume "
            "draws anew, so it is exact in everything but which samples come next.",
            file=sys.stderr,
        )
        return bad

    def check_unchanged(self, run: Path) -> None:
        """Nobody can tell; the addresses stand in the recipe."""

    def texts(self) -> Iterator[str]:
        """Of the first samples that come."""
        captions, last = setup.captions_of(self.recipe), Bad("", "", "")
        texts = 0
        with closing(one_by_one(self.addresses, self.patience, self._counted([]))) as found:
            for sample in islice(found, TOKENIZER_SAMPLES):
                try:
                    own = [caption.text for caption in captions.of(sample)]
                except BadSample as error:
                    last = error.bad
                    continue
                texts += len(own)
                yield from own
        if not texts:
            raise UserError(
                f"There is no caption in the streams; the last sample: {last.shard} {last.key}: {last.reason}.",
                "Correct data.train, data.caption_keys or data.languages.",
            )

    def embed(self, job: Job) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """No teacher of streams has a cache."""
        return {}, {}

    def save(self, run: Path) -> None:
        """The recipe says it all."""

    def batches(self, tokenizer: Tokenizer, part: Part, pin: bool) -> Generator[list[Batch]]:
        transform = setup.transform_of(self.recipe, tokenizer)
        size = self.recipe.train.batch_size // part.world
        seed = self.recipe.train.seed, part.start, part.rank
        streams = StreamDataset(self.addresses, self.patience, transform, size, seed, part.pieces)
        with closing(batches(streams, self.recipe.data.workers, pin)) as loaded:
            yield from islice(loaded, part.stop - part.start)

    def keys(self, step: int) -> list[str]:
        return []

    def close(self) -> None:
        """Loader processes have closed theirs."""

    def _counted(self, bad: list[Bad]) -> Callable[[Bad], None]:
        """What notes a shard that is passed over, up to the recipe's limit."""

        def note(one: Bad) -> None:
            bad.append(one)
            refuse_too_many(len(bad), most_bad(self.recipe, self.samples), one, "before training")
            print(f"{one.shard} is passed over: {one.reason}", file=sys.stderr)

        return note
