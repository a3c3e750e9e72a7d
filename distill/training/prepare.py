"""The preparation of a run before training starts: checks, tokenizer, teacher caches, run folder.

Cheap checks come first and the run folder is written last, so a wrong recipe leaves no files behind.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.config import pieces_of
from distill.errors import UserError
from distill.remarks import remarks
from distill.resolved import ResolvedRecipe
from distill.training.averaging import check_average
from distill.training.model import parameter_counts
from distill.training.observing import check_observers
from distill.training.resuming import check_recipe, check_weights, write_continued
from distill.training.run import is_run, write_run
from distill.training.setup import Networks, existing_tokenizer, load_tokenizer
from distill.training.space import check_space
from distill.training.tokenizer_training import prepare_tokenizer
from distill.training.training_set import open_data
from launch.launcher import Job

PACKAGES = ("torch", "deepspeed", "timm", "sentencepiece", "webdataset", "safetensors", "numpy")


def prepare(
    resolved: ResolvedRecipe,
    networks: Networks,
    run: Path,
    resume: bool,
    job: Job,
    allow_pipe: bool = False,
    extend: bool = False,
) -> None:
    """Make a run folder ready for training, or check that it is the one to resume.

    Args:
        resolved: the recipe.
        networks: the networks of the recipe; those that are built here can be used for training in this process.
        run: the run folder.
        resume: continue the run in this folder, instead of starting one.
        job: the processes that will train; missing teacher cache entries are computed by such processes too.
        allow_pipe: whether the recipe may run the shell commands of its ``pipe:`` streams.
        extend: whether a run that is continued may get another length.

    Raises:
        UserError: if the recipe, the folder, the data or a teacher cannot be used; then no run folder is written.
    """
    recipe = resolved.recipe
    if resume:
        check_recipe(recipe, run, extend)
    else:
        check_folder(run)
    pieces_of(recipe, job.world)
    check_observers(resolved)
    existing = load_tokenizer(resolved, run) if resume else existing_tokenizer(resolved)
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
    tokenizer, tokenizer_report = existing, None
    if resume:
        data.continue_with(run)
    else:
        for remark in remarks(resolved):
            print(remark, file=sys.stderr)
        tokenizer, tokenizer_report = prepare_tokenizer(resolved, existing, data)
    model = networks.model(tokenizer.vocab if tokenizer is not None else 0)
    for modality, inherited in networks.inherited.items():
        print(f"The {modality} student's first weights: {inherited.describe()}", file=sys.stderr)
    check_average(model, recipe.train.ema)
    kept = recipe.checkpoint.keep + any(table.best for table in recipe.evaluate)
    check_space(run, model, kept, average=recipe.train.ema > 0)
    if not job.here:
        networks.release_teachers(keep_online=False)  # the processes of the job load their own
    cached, audits = data.fill_caches(networks, job)
    networks.release_teachers()
    weights |= cached
    if resume:
        check_weights(run, weights)
        write_continued(recipe, run, data)
        return
    about = about_start(resolved) | {
        "processes": job.world,
        "samples": data.samples,
        "pictures": data.pictures,
        "steps": recipe.total_steps(data.samples),
        "vocab": tokenizer.vocab if tokenizer is not None else 0,
        "tokenizer": tokenizer_report,
        "parameters": parameter_counts(model),
        "initial_weights": {
            modality: inherited.counts() | {"random_names": inherited.random}
            for modality, inherited in networks.inherited.items()
        },
        "shards": data.shards,
        "teachers": [table.name for table in recipe.teacher],
        "teacher_weights": weights,
        "teacher_audits": audits,
    }
    write_run(recipe, run, tokenizer, about, data.save, bad)


def about_start(resolved: ResolvedRecipe) -> dict[str, Any]:
    """The part of ``run.json`` that does not depend on the data: versions of packages and rules, and the seed."""
    return {
        "versions": {"distill": version("distill"), "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "rules": asdict(resolved.rules),
        "seed": resolved.recipe.train.seed,
    }


def check_folder(run: Path) -> None:
    """Raise ``UserError`` if the folder for a new run is not empty."""
    if is_run(run):
        raise UserError(f"{run} already holds a run.", "Add --resume to continue it, or choose another --out.")
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run} exists and is no empty folder.", "Choose another --out.")
