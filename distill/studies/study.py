"""A study: its runs are trained and evaluated one after the other, and what they show is written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import write_text
from distill.studies.measured import Evaluations
from distill.studies.runs import (
    BEGUN,
    COMPLETE,
    Run,
    check_unchanged,
    keep_last_checkpoint,
    runs_of,
    steps_done,
    steps_of,
)
from distill.studies.summary import summarise
from distill.studies.table import as_markdown
from distill.studies.variants import Variant, Variants
from distill.training.run_lock import locked
from distill.training.start import start
from distill.training.together import in_group
from launch.job import on_termination
from launch.launcher import Launcher

STOPPING = "Stopping: this evaluation is completed. Ctrl-C again stops at once."


@dataclass(frozen=True)
class Training:
    """How runs are trained.

    Attributes:
        launcher: starts the processes of each; None trains in this process.
        allow_pipe: whether recipes may run the shell commands of their ``pipe:`` streams.
        keep_checkpoints: keep what the recipe keeps; otherwise only the last checkpoint of a complete run stays.
    """

    launcher: Launcher | None = None
    allow_pipe: bool = False
    keep_checkpoints: bool = False


class StudyRuns:
    """The runs of one study.

    Args:
        source: the name of the recipe.
        out: the folder of the study.
        variants: the reference first.
        seeds: with which each is trained.
        evaluations: that are made of each run.
        say: is called with a line about what is done.

    Attributes:
        failed: the runs that have failed in this process.
        remarks: sentences on what was left out, and on what is not alike.
    """

    def __init__(
        self,
        source: str,
        out: Path,
        variants: Variants,
        seeds: Sequence[int],
        evaluations: Evaluations,
        say: Callable[[str], object],
    ) -> None:
        self.source, self.out, self.variants, self.seeds = source, out, variants, seeds
        self.evaluations, self.say = evaluations, say
        self.runs = runs_of(out, variants.all, seeds)
        self.failed: list[Run] = []
        for variant in variants.all:
            evaluations.check(variant, variants.reference)
        self.remarks = (*variants.remarks, *evaluations.remarks(variants))
        for remark in self.remarks:
            say(remark)

    def plan(self, only: Sequence[Variant]) -> list[list[str]]:
        """What :meth:`carry_out` would do: a row for each variant of ``only``, and one with sums.

        Returns:
            Rows of name, settings, steps of a run, and the numbers of its runs: all, complete, begun.

        Raises:
            UserError: if runs were started with other recipes, or the training set of a variant cannot be read.
        """
        check_unchanged(self.out, only)
        samples: dict[tuple[str, ...], int] = {}
        rows, left = [["variant", "settings", "steps a run", "runs", "complete", "begun"]], 0
        for variant in only:
            own = [run for run in self.runs if run.variant is variant]
            states, steps = [run.state for run in own], [steps_of(run, samples) for run in own]
            left += sum(steps) - sum(map(steps_done, own))
            counts = [len(own), states.count(COMPLETE), states.count(BEGUN)]
            rows.append([variant.name, "; ".join(variant.settings), f"{steps[0]:,}", *map(str, counts)])
        sums = [str(sum(int(row[k]) for row in rows[1:])) for k in (3, 4, 5)]
        return [*rows, [f"all, with {left:,} steps to go", "", "", *sums]]

    def carry_out(self, only: Sequence[Variant], training: Training) -> bool:
        """Train and evaluate what has not been, and write ``study.md`` and ``study.json``.

        Args:
            only: the variants of which runs are made; the tables have all that is known of the others, too.
            training: how.

        Returns:
            Whether it has come to its end; if not, a signal has stopped it, or a run has failed in a group of
            processes that another program has started, and calling it again goes on.

        Raises:
            KeyboardInterrupt: if it is interrupted before the training of a run begins, or a second time.
            UserError: if another process works in the folder, runs were started with other recipes, or the first
                evaluation of all cannot be made.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out, wait=False):
            self.evaluations.results.read()
            check_unchanged(self.out, self.variants.all)
            self.failed = []
            # Those that have failed before come last: whatever stops this one, the others are done one day.
            todo = [run for run in self.runs if run.variant in only]
            todo.sort(key=lambda run: self.relative(run) in self.evaluations.results.failures)
            for number, run in enumerate(todo, 1):
                goes_on = self.carry_out_run(run, f"{run.name} ({number} of {len(todo)} runs)", training)
                if goes_on and run in self.failed and in_group() and number < len(todo):
                    self.say("The processes that were started cannot train any more after a failure.")
                    goes_on = False
                if not goes_on:
                    self.write()
                    return False
            self.write()
        return True

    def relative(self, run: Run) -> str:
        """The folder of a run as ``results.jsonl`` has it."""
        return str(run.folder.relative_to(self.out))

    def carry_out_run(self, run: Run, title: str, training: Training) -> bool:
        """Train and evaluate one run as far as that has not been done; False if a signal has stopped it."""
        about = {"variant": run.variant.name, "seed": run.seed, "run": self.relative(run)}
        stopped, results, trained = list[bool](), self.evaluations.results, False
        try:
            if run.state != COMPLETE:
                self.say(f"{title}: {'training goes on' if run.state == BEGUN else 'training'}")
                options: dict[str, Any] = {"launcher": training.launcher, "allow_pipe": training.allow_pipe}
                if not start(run.recipe, run.folder, resume=run.state == BEGUN, **options):
                    return False
            trained = True
            missing = self.evaluations.missing(run.folder, run.recipe)
            if missing:
                with on_termination(partial(self.stop_later, stopped)):
                    self.say(f"{title}: evaluating")
                    self.evaluations.make(run.folder, missing, about)
            if not training.keep_checkpoints:
                keep_last_checkpoint(run.folder)
            if about["run"] in results.failures:
                results.add(about | {"failed": ""})
            if missing:
                self.write()
            return not stopped
        # torch raises a RuntimeError where a device has no memory left. Others say that something is wrong in here.
        except (UserError, RuntimeError) as error:
            if trained and not results.found and isinstance(error, UserError):
                # A task that nothing has passed yet will fail after every training.
                raise UserError(
                    f"{title}: trained, and the first evaluation fails: {error}",
                    "The run is kept; with a task that can be done, the same command goes on.",
                ) from error
            message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.failed.append(run)
        # Where one of several processes has failed, torchrun sends the others a signal: first it is written down.
        with on_termination(lambda: stopped.append(True)):
            results.add(about | {"failed": message})
            self.say(f"{title}: failed: {message}")
            self.write()
        return not stopped

    def stop_later(self, stopped: list[bool]) -> None:
        """Note that a signal has asked to stop, while an evaluation is made."""
        stopped.append(True)
        self.say(STOPPING)

    def summary(self) -> dict[str, Any]:
        """See :func:`distill.studies.summary.summarise`."""
        return summarise(self.source, self.variants, self.runs, self.evaluations) | {"remarks": list(self.remarks)}

    def write(self) -> None:
        """Write what is known."""
        summary = self.summary()
        write_text(self.out / "study.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        write_text(self.out / "study.md", as_markdown(summary))
