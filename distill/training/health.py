"""Problems that do not end a run at once: bad samples, steps that are not finite, and loss spikes.

Each is written with its step to a file in the run folder. A resumed run reads those up to the step it resumes from,
and continues counting towards the same limits.
"""

from __future__ import annotations

import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

from distill.config import Recipe
from distill.data.batch import Batch
from distill.errors import Bad, UserError
from distill.training.log import Journal
from distill.training.run import BAD_SAMPLES, EVENTS
from distill.training.step import Outcome
from distill.wording import counted
from launch import group as processes

SPIKE_WINDOW = 50  # a loss is compared with the median of so many losses before it
SPIKE_MIN_LOSSES = 10  # with fewer losses before it, no loss counts as a spike
SPIKE_DEVIATIONS = 8.0  # above the median; one deviation is 1.4826 × the median absolute deviation


class Health:
    """Counts and records problems. Every process has one with the same counts; the first process writes the files.

    Args:
        run: the run folder.
        recipe: sets the limits: ``data.bad_samples`` and ``train.skip_nonfinite``.
        samples: the number of samples in the training set.
        start: the step the run resumes from; 0 for a new run.
        group: the process group.
    """

    def __init__(self, run: Path, recipe: Recipe, samples: int, start: int, group: processes.Group) -> None:
        self.group = group
        self.bad = Journal(run / BAD_SAMPLES, start, group.first)
        self.events = Journal(run / EVENTS, start, group.first)
        self.known = {(line["shard"], line["key"]) for line in self.bad.earlier}
        self.missing = sum(line.get("missing", 0) for line in self.bad.earlier)
        self.allowed = max_bad_samples(recipe, samples)
        self.skipped = sum(line["event"] == "not finite" for line in self.events.earlier)
        self.allowed_skips = recipe.train.skip_nonfinite
        self.losses: deque[float] = deque(maxlen=SPIKE_WINDOW)

    def record(self, step: int, share: Sequence[Batch], outcome: Outcome, keys: Callable[[], Sequence[str]]) -> None:
        """Record the problems of a step. Every process must call this.

        Args:
            step: the number of the step, counted from 1.
            share: this process's share of the batch, as micro-batches.
            outcome: the result of the step.
            keys: returns the keys of all samples that the data order has in this step, bad ones included.

        Raises:
            UserError: if there are more bad samples or skipped steps than the recipe allows.
        """
        if outcome.counts["bad"]:
            bad = [sample for batch in share for sample in batch.bad]
            self.record_bad_samples(step, chain(*processes.gather_objects(bad, self.group)))
        if outcome.nonfinite:
            # In the order of the rows: see distill.data.batch.in_sample_order.
            local_keys = [key for batch in share for key in batch.keys[: batch.captioned_count]]
            local_keys += [key for batch in share for key in batch.keys[batch.captioned_count :]]
            all_keys = list(chain(*processes.gather_objects(local_keys, self.group)))
            # A process that has non-finite rows names them, and its text is the longest.
            longest = max(processes.gather_objects(outcome.nonfinite, self.group), key=len)
            outcome = replace(outcome, nonfinite=longest)
            self.record_nonfinite(step, outcome, [all_keys[i] for i in outcome.positions] or all_keys)
        else:
            self.record_loss(step, outcome.numbers["loss"], keys)

    def record_bad_samples(self, step: int, bad: Iterable[Bad]) -> None:
        """Record samples that could not be used, each once.

        Raises:
            UserError: if there are now more of them than the recipe allows.
        """
        for sample in bad:
            if (sample.shard, sample.key) in self.known:
                continue
            self.known.add((sample.shard, sample.key))
            self.missing += sample.missing
            self.bad.append({"step": step} | sample._asdict())
            check_bad_samples(len(self.known) + self.missing, self.allowed, sample, self.bad.path)

    def record_loss(self, step: int, loss: float, keys: Callable[[], Sequence[str]]) -> None:
        """Record a loss spike: a loss far above those before it; ``keys`` returns the keys of the batch."""
        if len(self.losses) >= SPIKE_MIN_LOSSES:
            median = statistics.median(self.losses)
            deviation = 1.4826 * statistics.median(abs(x - median) for x in self.losses)
            if loss > median + SPIKE_DEVIATIONS * max(deviation, 0.01 * abs(median)) and self.group.first:
                batch_keys: list[str] = []
                with suppress(UserError):  # raised if a shard has been removed since
                    batch_keys = list(keys())
                event = {"step": step, "event": "spike", "loss": loss, "usual": median, "keys": batch_keys}
                self.events.append(event)
        self.losses.append(loss)

    def record_nonfinite(self, step: int, outcome: Outcome, keys: Sequence[str]) -> None:
        """Record a step that was skipped because a value was not finite.

        Args:
            step: the number of the step.
            outcome: the result of the step.
            keys: the keys of the samples whose values were not finite.

        Raises:
            UserError: if more steps were skipped than the recipe allows.
        """
        self.skipped += 1
        named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        self.events.append(
            {"step": step, "event": "not finite", "what": outcome.nonfinite, "keys": list(keys)} | outcome.numbers
        )
        sentence = f"Step {step} was not finite: {outcome.nonfinite}. Its samples: {named}"
        if self.skipped > self.allowed_skips:
            raise UserError(
                f"{sentence} ({self.events.path} lists them all).",
                "Train into another folder with a lower optim.lr or a longer optim.warmup, inspect the samples, or "
                f"allow such steps to be skipped: train.skip_nonfinite = {max(10, 2 * self.skipped)}.",
            )
        if self.group.first:
            print(f"{sentence}; skipped ({self.skipped} of {self.allowed_skips}).", file=sys.stderr, flush=True)


def max_bad_samples(recipe: Recipe, samples: int) -> int:
    """The number of samples of a training set that may be bad."""
    limit = recipe.data.bad_samples
    return int(limit * samples) if limit < 1 else int(limit)


def check_bad_samples(count: int, allowed: int, last: Bad, note: Path | str) -> None:
    """Raise ``UserError`` if there are more bad samples than are allowed.

    Args:
        count: how many there are.
        allowed: how many there may be.
        last: one of them, named in the message.
        note: the file that lists them all, or when they were found.
    """
    if count > allowed:
        name = f"sample '{last.key}' of {last.shard}" if last.key else last.shard
        raise UserError(
            f"{counted(count, 'bad sample is', 'bad samples are')} more than the {allowed} that data.bad_samples "
            f"allows; the last: {name}: {last.reason} ({note}).",
            "Raise data.bad_samples (a share below 1, a number from 1 on), or repair the samples and start again.",
        )
