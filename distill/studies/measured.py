"""The evaluations of a study's runs: each is made once, and kept as a line of ``results.jsonl``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.config import Recipe
from distill.data.captions import Captions
from distill.errors import UserError
from distill.evals.evaluation import Evaluation
from distill.evals.layout import Reading, open_data, open_train
from distill.evals.plan import plan
from distill.evals.runner import Settings, run
from distill.files import digest
from distill.recipe import anchor
from distill.run_tables import EvaluateTable
from distill.studies.variants import Variant, Variants
from distill.training.checkpoint import BEST, CHECKPOINTS, seal_of

Record = dict[str, Any]
KEY = ("run", "checkpoint", "task", "samples")  # what a result depends on, besides the options
CAPTIONS = ("caption_keys", "languages")  # keys of [data] that decide which captions a run reads
ALL = ""  # stands for all tasks that a model and the data allow


class Results:
    """The file ``results.jsonl``: a line for each evaluation, and one for each failure of a run.

    The later lines hold. A line whose "failed" is empty says that a failure has been put right.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read()

    def read(self) -> None:
        """Read the file, again if another process may have written to it."""
        self.found: dict[str, Record] = {}
        self.failures: dict[str, str] = {}  # by run, if the last attempt failed
        lines = self.path.read_text(encoding="utf-8").split("\n") if self.path.is_file() else []
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # a process that was killed may have left half a line

    def _take(self, record: Record) -> None:
        if record.get("failed"):
            self.failures[record["run"]] = str(record["failed"])
        elif "failed" in record:
            self.failures.pop(record["run"], None)
        else:
            self.found[key_of(record)] = record
            self.failures.pop(record["run"], None)

    def add(self, record: Record) -> None:
        """Append a line, and have the disk write it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(json.loads(json.dumps(record)))


def key_of(record: Mapping[str, Any]) -> str:
    """What identifies an evaluation, of a record that has at least these values.

    Where its data lie does not matter: what they are is in "samples".
    """
    options = {
        task: {name: value for name, value in own.items() if name not in ("data", "train")}
        for task, own in record["options"].items()
    }
    return json.dumps([record[name] for name in KEY] + [options], sort_keys=True)


class Evaluations:
    """The tasks of a study, made of each of its runs.

    Args:
        out: the folder of the study; keys name runs relative to it, so it may be moved.
        chosen: the tasks; none means all that a model and the data allow.
        options: of the tasks, see :func:`distill.evals.plan.plan`.
        defaults: the [[evaluate]] of the reference, see there; they hold for all variants.
        settings: what applies to all tasks.

    Raises:
        UserError: if there is no such task, or an option does not hold.
    """

    def __init__(
        self,
        out: Path,
        chosen: Sequence[str],
        options: Mapping[str, Any],
        defaults: Sequence[EvaluateTable],
        settings: Settings,
    ) -> None:
        self.out, self.chosen, self.settings = out, list(dict.fromkeys(chosen)), settings
        self.evaluations = plan(self.chosen, options, [(table.task, table.options) for table in defaults])
        self.results = Results(out / "results.jsonl")
        self._samples: dict[str, str] = {}

    def check(self, variant: Variant, reference: Variant) -> None:
        """Raise ``UserError`` if it is not known what to evaluate a variant on, or it is not what the reference is."""
        recipe = variant.recipe
        if recipe.data.eval != reference.recipe.data.eval:
            raise UserError(
                f"The variant '{variant.name}' sets data.eval: its numbers would be those of other samples.",
                "Leave it out there; --set data.eval=… is for all variants.",
            )
        if not recipe.data.eval and not all(one.data for one in self.evaluations.values()):
            raise UserError(
                "There is nothing to evaluate on.",
                "Name data with --data, or with --set data.eval='shards/test-*.tar'.",
            )
        if self.settings.best and not any(table.best for table in recipe.evaluate):
            raise UserError("No [[evaluate]] of the recipe says which checkpoint is the best.", "Leave out --best.")

    def remarks(self, variants: Variants) -> list[str]:
        """Sentences on variants that are measured on other captions than the reference."""
        readers = [name for name, one in self.evaluations.items() if "captions" in one.reads and not one.languages]
        found, base = list[str](), variants.reference.recipe.data
        for variant in variants.all if readers else ():
            changed = [key for key in CAPTIONS if getattr(variant.recipe.data, key) != getattr(base, key)]
            if changed:
                found.append(
                    f"'{variant.name}' is measured on other captions than the reference in {', '.join(readers)}, "
                    f"because its data.{changed[0]} differs; --option languages=… names languages for all."
                )
        return found

    def wanted(self, folder: Path, recipe: Recipe) -> dict[str, Record]:
        """What identifies the evaluations of a run that is complete, by task: records without results."""
        checkpoint = checkpoint_of(folder, self.settings.best)
        filled = {
            name: one if one.data else one.model_copy(update={"data": recipe.data.eval})
            for name, one in self.evaluations.items()
        }
        groups = {name: {name: filled[name]} for name in self.chosen} or {ALL: filled}
        base = {"run": str(folder.relative_to(self.out)), "checkpoint": checkpoint}
        return {
            task: base
            | {"task": task, "options": {name: one.model_dump(mode="json") for name, one in own.items()}}
            | {"samples": self._samples_of(own.values(), recipe)}
            for task, own in groups.items()
        }

    def known(self, folder: Path, recipe: Recipe) -> list[Record]:
        """The evaluations of a run that have been made, of those that are wanted; none if it has no checkpoint."""
        try:
            wanted = self.wanted(folder, recipe)
        except UserError:
            return []
        found = (self.results.found.get(key_of(one)) for one in wanted.values())
        return [record for record in found if record is not None]

    def missing(self, folder: Path, recipe: Recipe) -> dict[str, Record]:
        """The evaluations of a run that are wanted and have not been made."""
        wanted = self.wanted(folder, recipe)
        return {task: one for task, one in wanted.items() if key_of(one) not in self.results.found}

    def make(self, folder: Path, missing: Mapping[str, Record], about: Record) -> None:
        """Make evaluations of a run, and keep them.

        Args:
            folder: of the run.
            missing: see :meth:`missing`; not empty.
            about: what else their records say.

        Raises:
            UserError: if one cannot be made.
        """
        options = {name: values for record in missing.values() for name, values in record["options"].items()}
        chosen = [] if ALL in missing else list(missing)
        found = run(folder, chosen, options, self.settings)
        for task, record in missing.items():
            own = [result for result in found["results"] if task in (ALL, result["task"])]
            self.results.add(about | record | {"results": own, "not_made": found["not_made"]})

    def _samples_of(self, evaluations: Iterable[Evaluation], recipe: Recipe) -> str:
        """A hash of the samples that evaluations read: results of other samples under the same name are not theirs."""
        captions = Captions(recipe.data.caption_keys, recipe.data.languages)
        content = hashlib.sha256()
        for one in evaluations:
            name = repr((one, captions))
            if name not in self._samples:
                self._samples[name] = samples_of(one, captions, self.settings.skip_bad)
            content.update(self._samples[name].encode())
        return content.hexdigest()


def samples_of(evaluation: Evaluation, captions: Captions, skip_bad: bool) -> str:
    """The identity of the data and files that an evaluation reads; "" if the data cannot be read."""
    if evaluation.languages:
        captions = replace(captions, languages=evaluation.languages)
    reading = Reading(captions, skip_bad)
    try:
        found = [open_data(evaluation, reading)]
        train = open_train(evaluation, reading) if "train" in evaluation.reads else None
    except UserError:
        return ""
    files = [digest(Path(name)) for name in (evaluation.classes, evaluation.templates) if Path(name).is_file()]
    return " ".join([*(data.identity for data in found), train.identity if train is not None else "", *files])


def checkpoint_of(run: Path, best: bool) -> str:
    """A hash of the weights that a complete run is evaluated with."""
    folder = run / (BEST if best else CHECKPOINTS)
    try:
        seal = seal_of(folder / (folder / "latest").read_text(encoding="utf-8").strip())
    except (OSError, ValueError) as error:
        what = "no best checkpoint" if best else "no checkpoint that can be read"
        raise UserError(f"The run {run} has {what}.", "Let [[evaluate]] name the best one, or restore it.") from error
    return hashlib.sha256(json.dumps(seal["sha256"], sort_keys=True).encode()).hexdigest()


def anchored(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Options of tasks in which relative paths have become absolute."""
    tables = {key: dict(value) if isinstance(value, Mapping) else as_list(value) for key, value in options.items()}
    anchor({"evaluate": [tables, *(table for table in tables.values() if isinstance(table, dict))]}, folder)
    return tables


def as_list(value: Any) -> Any:
    """Tuples as lists, paths as strings."""
    if isinstance(value, list | tuple):
        return [as_list(one) for one in value]
    return str(value) if isinstance(value, Path) else value
