"""Completes the teacher caches before training, in this or several processes, and audits them against the teachers."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distill.config import Recipe
from distill.data.audit import audit
from distill.data.cache import Cache
from distill.data.cache_fill import MissingShards, check_space, describe_space, embed
from distill.data.shards import Shards
from distill.errors import UserError, as_user_errors
from distill.files import abandoned, mark, write_text
from distill.lookup import resolve
from distill.progress import progress_bar
from distill.recipe import dump
from distill.resolved import ResolvedRecipe
from distill.training import fill_worker
from distill.training.caches import caches_of
from distill.training.setup import Networks
from distill.training.together import launcher_for
from launch import job as jobs
from launch.group import default_device
from launch.launcher import Job, Launcher
from launch.process import keep_freed_memory

if TYPE_CHECKING:
    from teachers import Teacher


def embed_teachers(recipe: Recipe, out: Path | None, launcher: Launcher | None) -> dict[str, Any]:
    """Fill the teacher caches of a recipe without training; see :func:`distill.embed_teachers`."""
    keep_freed_memory()
    if out is not None:
        if len(recipe.teacher) != 1:
            raise UserError(
                "--out is for a recipe with one teacher.", "Set teacher.N.cache of each teacher in the recipe."
            )
        table = recipe.teacher[0].model_copy(update={"cache": str(out.absolute())})
        recipe = recipe.model_copy(update={"teacher": (table,)})
    resolved = resolve(recipe)
    caches = caches_of(resolved)
    if not caches:
        raise UserError("No teacher of this recipe has a cache to be filled.", 'Embed one whose cache is not "none".')
    specs = [specs for specs in (recipe.data.train, recipe.data.pictures) if specs]
    shards = Shards.joined([Shards.open(one, strict=False) for one in specs])
    if shards.faults:
        print(f"{shards.faults[0].shard} is damaged, and embedded as far as it can be read.", file=sys.stderr)
    job = Job(Path(fill_worker.__file__).resolve(), (), Path.cwd(), launcher_for(launcher))
    with as_user_errors():
        jobs.check(job)
    audits = fill_and_audit(resolved, Networks(resolved), shards, job)
    folders = sorted({str(cache.folder(index.path)) for cache in caches for index in shards.indexes})
    return {"folders": folders, "audits": audits}


def fill_and_audit(
    resolved: ResolvedRecipe, networks: Networks, shards: Shards, job: Job
) -> dict[str, dict[str, Any]]:
    """Complete the teacher caches of a recipe, and compare a sample of their rows with the teachers' outputs.

    Args:
        resolved: the recipe.
        networks: loads the teachers.
        shards: the training shards.
        job: the processes that compute.

    Returns:
        By name of the teacher the result of :func:`distill.data.audit.audit`, for teachers with ``audit`` above 0.

    Raises:
        UserError: if a cache has another identity than the recipe's, or a row differs from the teacher's output.
    """
    caches = caches_of(resolved)
    # If other processes compute, this one does not use the accelerator that they need.
    device = default_device() if job.here else torch.device("cpu")
    numbers = [k for k, teacher in enumerate(resolved.teachers) if not teacher.online]

    def live(k: int) -> Teacher:
        return networks.teacher(numbers[k], device)

    fill(resolved, caches, shards, job, live)
    audits = {}
    for k, (teacher, cache) in enumerate(zip(resolved.cached, caches, strict=True)):
        if not cache.table.audit:
            continue
        result = audit(cache, live(k), shards, cache.table.audit)
        audits[teacher.name] = result
        if not result["rows"]:
            print(
                f"{teacher.name}: no cached embedding could be compared: none of the samples drawn can be read",
                file=sys.stderr,
            )
            continue
        print(
            f"{teacher.name}: {result['rows']} cached embeddings compared with the live teacher's, "
            f"cosine at least {math.floor(result['min_cosine'] * 1e5) / 1e5:.5f}",
            file=sys.stderr,
        )
    return audits


def fill(
    resolved: ResolvedRecipe,
    caches: Sequence[Cache],
    shards: Shards,
    job: Job,
    live: Callable[[int], Teacher],
) -> None:
    """Compute the shards that caches lack, in this process or in those of a job.

    Raises:
        UserError: if a disk has too little space, or a process fails; complete shards are kept.
    """
    missing = MissingShards.find(caches, shards)
    if not missing:
        return
    check_space(caches, missing)
    print(f"The teacher caches need {describe_space(caches, missing)}", file=sys.stderr)
    if job.here:
        progress = progress_bar("embedding", missing.steps(caches), "samples")
        embed(caches, live, missing, resolved.recipe.data.workers, progress.update)
        progress.close()
        return
    # In a cache folder, because it is writable and on a file system that all hosts share.
    base = caches[0].folder(missing.shards.indexes[0].path)
    for old in base.glob(".embedding-*"):
        if abandoned(old):
            shutil.rmtree(old, ignore_errors=True)
    base.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".embedding-{mark()}", dir=base))
    try:
        write_text(scratch / fill_worker.RECIPE, dump(resolved.recipe))
        write_text(scratch / fill_worker.RULES, json.dumps(asdict(resolved.rules)))
        shards_and_caches = [
            [str(index.path), list(numbers)]
            for index, numbers in zip(missing.shards.indexes, missing.missing_in, strict=True)
        ]
        write_text(scratch / fill_worker.MISSING, json.dumps(shards_and_caches))
        script = Path(fill_worker.__file__).resolve()
        status = jobs.run(replace(job, script=script, arguments=(str(scratch),), folder=scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if status:
        raise UserError(
            f"Embedding stopped: a process ended with status {status}; its own message is above.",
            "Correct that and start again: complete shards are kept.",
        )
