"""The preparation of a run before training starts: checks, tokenizer, teacher caches, run folder.

Cheap checks come first and the run folder is written last, so a wrong recipe leaves no files behind.
"""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.config import Recipe, pieces_of
from distill.errors import UserError
from distill.files import write_text
from distill.recipe import dump
from distill.remarks import remarks
from distill.resolved import ResolvedRecipe
from distill.training.model import parameter_counts
from distill.training.run import RECIPE, is_run, read_about, read_recipe, write_run
from distill.training.setup import Networks, existing_tokenizer
from distill.training.stop_requests import STOP
from distill.training.tokenizer_training import prepare_tokenizer
from distill.training.training_set import open_data
from launch.launcher import Job

# Recipe keys that may change on resume: they affect checks, saving, loading, ZeRO and limits, but not what is learned.
MAY_CHANGE = (
    r"teacher\.\d+\.audit|checkpoint\..*|zero\.stage|"
    r"data\.(workers|bad_samples|timeout|retries)|train\.(skip_nonfinite|stall_seconds)"
)
PACKAGES = ("torch", "deepspeed", "timm", "sentencepiece", "webdataset", "safetensors", "numpy")


def prepare(
    resolved: ResolvedRecipe, networks: Networks, run: Path, resume: bool, job: Job, allow_pipe: bool = False
) -> None:
    """Make a run folder ready for training, or check that it is the one to resume.

    Args:
        resolved: the recipe.
        networks: the networks of the recipe; those that are built here can be used for training in this process.
        run: the run folder.
        resume: continue the run in this folder, instead of starting one.
        job: the processes that will train; missing teacher cache entries are computed by such processes too.
        allow_pipe: whether the recipe may run the shell commands of its ``pipe:`` streams.

    Raises:
        UserError: if the recipe, the folder, the data or a teacher cannot be used; then no run folder is written.
    """
    recipe = resolved.recipe
    check_folder(recipe, run, resume)
    pieces_of(recipe, job.world)
    existing = existing_tokenizer(resolved)
    # A wrong tower or a teacher that cannot be loaded raises here, before any data is read.
    networks.check(None if existing is None else existing.vocab)
    online = [k for k, teacher in enumerate(resolved.teachers) if teacher.online]
    weights = {resolved.teachers[k].name: networks.teacher(k).fingerprint() for k in online}
    data = open_data(resolved)
    if data.commands and not allow_pipe:
        count = "a command" if len(data.commands) == 1 else f"{len(data.commands)} commands"
        remedy = "If you trust the recipe, add --allow-pipe."
        raise UserError(f"The recipe runs {count}: {'; '.join(data.commands)}.", remedy)
    bad = data.preflight()
    if resume:
        data.check_unchanged(run)
    tokenizer, tokenizer_report = existing, None
    if not resume:
        for remark in remarks(resolved):
            print(remark, file=sys.stderr)
        tokenizer, tokenizer_report = prepare_tokenizer(resolved, existing, data)
    if not job.here:
        networks.release_teachers(keep_online=False)  # the processes of the job load their own
    cached, audits = data.fill_caches(networks, job)
    networks.release_teachers()
    weights |= cached
    if resume:
        check_weights(run, weights)
        write_text(run / RECIPE, dump(recipe))
        (run / STOP).unlink(missing_ok=True)
        return
    about = {
        "versions": {"distill": version("distill"), "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "rules": asdict(resolved.rules),
        "seed": recipe.train.seed,
        "processes": job.world,
        "samples": data.samples,
        "steps": recipe.train.total_steps(data.samples),
        "vocab": tokenizer.vocab if tokenizer is not None else 0,
        "tokenizer": tokenizer_report,
        "parameters": parameter_counts(networks.model(tokenizer.vocab if tokenizer is not None else 0)),
        "shards": data.shards,
        "teachers": [table.name for table in recipe.teacher],
        "teacher_weights": weights,
        "teacher_audits": audits,
    }
    write_run(recipe, run, tokenizer, about, data.save, bad)


def check_folder(recipe: Recipe, run: Path, resume: bool) -> None:
    """Raise ``UserError`` if the folder for a new run is not empty, or the run to resume has a different recipe."""
    if resume:
        if not is_run(run):
            raise UserError(f"There is no run to resume in {run}.", "Leave out --resume, or correct --out.")
        old, new = read_recipe(run).model_dump(mode="json"), recipe.model_dump(mode="json")
        changed = sorted({name for name in differences(old, new) if not re.fullmatch(MAY_CHANGE, name)})
        if changed:
            raise UserError(
                f"The run in {run} was started with another {', '.join(changed)}.",
                f"Give the recipe it was started with ({run / RECIPE} is it), or train into another folder.",
            )
    elif is_run(run):
        raise UserError(f"{run} already holds a run.", "Add --resume to continue it, or choose another --out.")
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run} exists and is no empty folder.", "Choose another --out.")


def check_weights(run: Path, weights: dict[str, str]) -> None:
    """Raise ``UserError`` if the weights of a teacher are not those that the run was started with."""
    before = read_about(run)["teacher_weights"]
    changed = [name for name, value in weights.items() if before.get(name, value) != value]
    if changed:
        raise UserError(
            f"The weights of '{changed[0]}' are not those the run was started with.",
            "Restore them, or train into another folder.",
        )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The dotted names of the values that differ between two recipes."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for k, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{path}.{k}")]
    return [] if old == new else [path]
