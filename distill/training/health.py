"""What may go wrong in a run without ending it: bad samples, steps that are not finite, spikes of the loss.

Each is noted in a file of the run folder with its step, so that a resumed run starts from what was known at the step
it goes on from, and counts towards the same limits.
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
from launch import group as processes

MEMORY = 50  # losses that a spike is compared with
ENOUGH = 10  # of them, before anything can be called one
SPIKE = 8.0  # deviations above the median, the deviation being that of a normal distribution of the same quartiles


class Health:
    """Counts and notes what goes wrong. All processes have one and are told the same; the first one writes.

    Args:
        run: the run folder.
        recipe: whose limits hold.
        samples: of the training set.
        start: the step the run goes on from.
        group: the processes.
    """

    def __init__(self, run: Path, recipe: Recipe, samples: int, start: int, group: processes.Group) -> None:
        self.group = group
        self.bad = Journal(run / BAD_SAMPLES, start, group.first)
        self.events = Journal(run / EVENTS, start, group.first)
        self.known = {(line["shard"], line["key"]) for line in self.bad.before}
        self.missing = sum(line.get("missing", 0) for line in self.bad.before)
        self.allowed = most_bad(recipe, samples)
        self.skipped = sum(line["event"] == "not finite" for line in self.events.before)
        self.allowed_skips = recipe.train.skip_nonfinite
        self.losses: deque[float] = deque(maxlen=MEMORY)

    def take(self, step: int, share: Sequence[Batch], outcome: Outcome, keys: Callable[[], Sequence[str]]) -> None:
        """Look at a step. Every process must call this.

        Args:
            share: this process's batch, in pieces.
            outcome: of the step.
            keys: gives those of the whole batch's samples, as they should have been.

        Raises:
            UserError: if something has gone wrong more often than the recipe allows.
        """
        if outcome.counts["bad"]:
            bad = [one for piece in share for one in piece.bad]
            self.take_bad(step, chain(*processes.gather_objects(bad, self.group)))
        if outcome.trouble:
            own = [key for piece in share for key in piece.keys]
            shown = list(chain(*processes.gather_objects(own, self.group)))
            # Whose rows it was knows most.
            what = max(processes.gather_objects(outcome.trouble, self.group), key=len)
            outcome = replace(outcome, trouble=what)
            self.take_trouble(step, outcome, [shown[i] for i in outcome.positions] or shown)
        else:
            self.take_loss(step, outcome.numbers["loss"], keys)

    def take_bad(self, step: int, bad: Iterable[Bad]) -> None:
        """Note samples that could not be used, each once.

        Raises:
            UserError: if that makes more of them than the recipe allows.
        """
        for one in bad:
            if (one.shard, one.key) in self.known:
                continue
            self.known.add((one.shard, one.key))
            self.missing += one.missing
            self.bad.note({"step": step} | one._asdict())
            check_bad_samples(len(self.known) + self.missing, self.allowed, one, self.bad.path)

    def take_loss(self, step: int, loss: float, keys: Callable[[], Sequence[str]]) -> None:
        """Note a loss that is far above the ones before; ``keys`` gives those of the batch."""
        if len(self.losses) >= ENOUGH:
            usual = statistics.median(self.losses)
            spread = 1.4826 * statistics.median(abs(x - usual) for x in self.losses)
            if loss > usual + SPIKE * max(spread, 0.01 * abs(usual)) and self.group.first:
                named: list[str] = []
                with suppress(UserError):  # a shard that is gone by now
                    named = list(keys())
                self.events.note({"step": step, "event": "spike", "loss": loss, "usual": usual, "keys": named})
        self.losses.append(loss)

    def take_trouble(self, step: int, outcome: Outcome, keys: Sequence[str]) -> None:
        """Note a step that was not finite and has therefore changed nothing.

        Args:
            keys: of the samples at fault.

        Raises:
            UserError: if the recipe does not allow it.
        """
        self.skipped += 1
        named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        self.events.note(
            {"step": step, "event": "not finite", "what": outcome.trouble, "keys": list(keys)} | outcome.numbers
        )
        said = f"Step {step} was not finite: {outcome.trouble}. Its samples: {named}"
        if self.skipped > self.allowed_skips:
            raise UserError(
                f"{said} ({self.events.path} has all).",
                "Train into another folder with a lower optim.lr or a longer optim.warmup, look at the samples, or "
                f"let such steps be skipped: train.skip_nonfinite = {max(10, 2 * self.skipped)}.",
            )
        if self.group.first:
            print(f"{said}; skipped ({self.skipped} of {self.allowed_skips}).", file=sys.stderr, flush=True)


def most_bad(recipe: Recipe, samples: int) -> int:
    """How many samples of a training set may be bad."""
    limit = recipe.data.bad_samples
    return int(limit * samples) if limit < 1 else int(limit)


def check_bad_samples(count: int, allowed: int, last: Bad, where: Path | str) -> None:
    """Raise ``UserError`` if there are more bad samples than are allowed."""
    if count > allowed:
        name = f"sample '{last.key}' of {last.shard}" if last.key else last.shard
        raise UserError(
            f"{count} bad samples are more than the {allowed} that data.bad_samples allows; the last: {name}: "
            f"{last.reason} ({where}).",
            "Raise data.bad_samples (a share below 1, a number from 1 on), or repair them and start anew.",
        )
