"""Teachers before training: what they have still to embed, in which processes, and whether their caches are true."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill.config import Recipe
from distill.data.audit import audit
from distill.data.cache import Cache
from distill.data.cache_fill import Todo, check_space, embed
from distill.data.shards import Shards
from distill.errors import UserError
from distill.files import abandoned, mark, write_text
from distill.lookup import names_of, online, teachers_of
from distill.progress import progress_bar
from distill.recipe import dump
from distill.train import fill_worker, setup
from launch import job as jobs
from launch.group import default_device


def online_weights(recipe: Recipe) -> dict[str, str]:
    """The fingerprints of the teachers that run while training, by name; each has been loaded and tried."""
    live = setup.online_teachers(recipe, torch.device("cpu"))
    named = zip(names_of(recipe), live, strict=True)
    return {name: teacher.fingerprint() for name, teacher in named if teacher is not None}


def cached(recipe: Recipe) -> dict[str, Cache]:
    """The caches of a recipe by the names of their teachers."""
    tables = zip(names_of(recipe), teachers_of(recipe), strict=True)
    return dict(zip((name for name, table in tables if not online(table)), setup.caches_of(recipe), strict=True))


def fill_and_audit(recipe: Recipe, shards: Shards, job: jobs.Job) -> dict[str, dict[str, Any]]:
    """Complete the teacher caches of a recipe, and compare some of their rows with the live teachers.

    Args:
        recipe: resolved.
        shards: the training shards.
        job: where to embed.

    Returns:
        By teacher, what the comparison found; empty for those the recipe does not want compared.

    Raises:
        UserError: if a cache is of something else or not true.
    """
    named = cached(recipe)
    caches = list(named.values())
    # Where other processes compute, this one leaves the accelerator to them.
    live = setup.live_teachers(caches, default_device() if job.here else torch.device("cpu"))
    fill(recipe, caches, shards, job, live)
    audits = {}
    for k, (name, cache) in enumerate(named.items()):
        if not cache.table.audit:
            continue
        found = audit(cache, live(k), shards, cache.table.audit)
        audits[name] = found
        if not found["rows"]:
            print(f"{name}: no cached embedding could be compared, none of the images drawn decodes", file=sys.stderr)
            continue
        print(
            f"{name}: {found['rows']} cached embeddings compared with the live teacher's, "
            f"cosine at least {math.floor(found['min_cosine'] * 1e5) / 1e5:.5f}",
            file=sys.stderr,
        )
    return audits


def fill(recipe: Recipe, caches: Sequence[Cache], shards: Shards, job: jobs.Job, live: fill_worker.Live) -> None:
    """Embed what caches lack: in this process, or in those of a job, shard by shard.

    Raises:
        UserError: if there is no room for it, or a process fails; what is complete is kept.
    """
    todo = Todo.of(caches, shards)
    if not todo:
        return
    print(f"The teacher caches need {check_space(caches, todo)}", file=sys.stderr)
    if job.here:
        progress = progress_bar("embedding", len(todo.shards), "images")
        embed(caches, live, todo, recipe.data.workers, progress.update)
        progress.close()
        return
    # In a cache's folder, since that is on a file system which all hosts share, and can be written to.
    base = caches[0].folder(todo.shards.indexes[0].path)
    for old in base.glob(".embedding-*"):
        if abandoned(old):
            shutil.rmtree(old, ignore_errors=True)
    base.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".embedding-{mark()}", dir=base))
    try:
        write_text(scratch / fill_worker.RECIPE, dump(recipe))
        lacking = [[str(i.path), list(some)] for i, some in zip(todo.shards.indexes, todo.lacking, strict=True)]
        write_text(scratch / fill_worker.TODO, json.dumps(lacking))
        script = Path(fill_worker.__file__).resolve()
        status = jobs.run(replace(job, script=script, arguments=(str(scratch),), folder=scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if status:
        raise UserError(
            f"Embedding stopped: a process ended with status {status}; its own message stands above.",
            "Put that right and start again: what is complete is kept.",
        )
