"""Continuing a run: what of its recipe may differ, where its files may lie, and how it is made longer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from distill.config import Recipe
from distill.errors import UserError
from distill.files import write_text
from distill.recipe import LENGTHS, dump
from distill.training import checkpoint
from distill.training.run import ABOUT, RECIPE, is_run, read_about, read_recipe
from distill.training.stop_requests import STOP
from distill.training.training_set import TrainingSet

# Recipe keys that may change on resume: they affect where files lie, checks, saving, loading, measuring, ZeRO and
# limits, but not what is learned. That moved shards and caches are still the same is checked by their hashes.
MAY_CHANGE = (
    r"teacher\.\d+\.(audit|cache|weights)|checkpoint\..*|zero\.stage|"
    r"data\.(workers|bad_samples|timeout|retries)|data\.eval(\.\d+)?|"
    r"train\.(micro_batch|skip_nonfinite|stall_seconds)|evaluate(\..*)?|log\..*"
)
MOVED_SHARDS = r"data\.(train|pictures)(\.\d+)?"


def check_recipe(recipe: Recipe, run: Path, extend: bool) -> None:
    """Check that a run can be continued with a recipe.

    Args:
        recipe: the recipe.
        run: the folder of the run.
        extend: whether the length of the training may change.

    Raises:
        UserError: if there is no run, or a value of its recipe that may not change has changed.
    """
    if not is_run(run):
        raise UserError(f"There is no run to resume in {run}.", "Leave out --resume, or correct --out.")
    started_with = read_recipe(run)
    changed = keys_changed(started_with, recipe)
    lengths = [name for name in changed if name in LENGTHS]
    others = [name for name in changed if name not in LENGTHS]
    if others:
        raise UserError(
            f"The run in {run} was started with another {', '.join(others)}.",
            f"Give the recipe it was started with ({run / RECIPE} is it), or train into another folder.",
        )
    if lengths and not extend:
        raise UserError(
            f"The run in {run} was started with another {', '.join(lengths)}.",
            "Add --extend to make it longer, or give the recipe it was started with.",
        )


def keys_changed(old: Recipe, new: Recipe) -> list[str]:
    """The keys that differ between the recipe of a run and another one, and that may not change on resume."""
    may_change = MAY_CHANGE if old.data.streamed or new.data.streamed else f"{MAY_CHANGE}|{MOVED_SHARDS}"
    names = differences(old.model_dump(mode="json"), new.model_dump(mode="json"))
    return sorted({name for name in names if not re.fullmatch(may_change, name)}) + modes_changed(old, new)


def modes_changed(old: Recipe, new: Recipe) -> list[str]:
    """The keys of caches that one recipe has and the other has not: a teacher that runs live sees other views."""
    pairs = enumerate(zip(old.teacher, new.teacher, strict=False))
    return [f"teacher.{k}.cache" for k, (a, b) in pairs if (a.cache == "none") != (b.cache == "none")]


def check_weights(run: Path, weights: dict[str, str]) -> None:
    """Raise ``UserError`` if the weights of a teacher are not those that the run was started with."""
    before = read_about(run)["teacher_weights"]
    changed = [name for name, value in weights.items() if before.get(name, value) != value]
    if changed:
        raise UserError(
            f"The weights of '{changed[0]}' are not those the run was started with.",
            "Restore them, or train into another folder.",
        )


def write_continued(recipe: Recipe, run: Path, data: TrainingSet) -> None:
    """Write to the folder of a run what has changed: recipe, paths of shards, and a new number of steps.

    Raises:
        UserError: if the run would be shorter than what has been done.
    """
    about, steps = read_about(run), recipe.total_steps(data.samples)
    if steps != about["steps"]:
        newest = checkpoint.newest(run)
        done = checkpoint.step_of(newest) if newest is not None else 0
        if steps <= done:
            raise UserError(
                f"The run in {run} has done {done} steps and cannot be made one of {steps}.", "Give it more steps."
            )
        about["samples"] = data.samples  # of streams the number follows from that of the steps
        about["extended"] = [*about.get("extended", ()), {"at": done, "from": about["steps"], "to": steps}]
        about["steps"] = steps
        write_text(run / ABOUT, json.dumps(about, indent=1) + "\n")
    before = read_recipe(run).data
    if (recipe.data.train, recipe.data.pictures) != (before.train, before.pictures):
        data.save(run)
    write_text(run / RECIPE, dump(recipe))
    (run / STOP).unlink(missing_ok=True)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The dotted names of the values that differ between two recipes."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for k, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{path}.{k}")]
    return [] if old == new else [path]
