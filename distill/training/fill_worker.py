"""One of several processes that fill teacher caches; a script whose argument is a folder with its inputs."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

RECIPE, RULES, MISSING = "recipe.toml", "rules.json", "missing.json"


def main(folder: Path) -> int:
    from launch.process import set_up_process

    set_up_process()
    from distill.data.cache_fill import MissingShards, embed
    from distill.data.indexes import read_index
    from distill.data.shards import Shards
    from distill.errors import UserError
    from distill.lookup import resolve
    from distill.progress import progress_bar
    from distill.recipe import parse
    from distill.rules import Rules
    from distill.training.caches import caches_of
    from distill.training.setup import Networks
    from launch import group as processes

    group = processes.join()
    try:
        rules = Rules(**json.loads((folder / RULES).read_text(encoding="utf-8")))
        resolved = resolve(parse(tomllib.loads((folder / RECIPE).read_text(encoding="utf-8"))), rules)
        networks, caches = Networks(resolved), caches_of(resolved)
        cached = [k for k, teacher in enumerate(resolved.teachers) if not teacher.online]
        shards_and_caches = json.loads((folder / MISSING).read_text(encoding="utf-8"))
        missing = MissingShards(
            Shards([read_index(Path(path)) for path, _ in shards_and_caches]),
            tuple(tuple(missing_in) for _, missing_in in shards_and_caches),
        ).part(group.rank, group.world)
        label = f"embedding, process {group.rank + 1} of {group.world}"
        progress = progress_bar(label, missing.steps(caches), "samples") if group.first else None
        embed(
            caches,
            lambda k: networks.teacher(cached[k], group.device),
            missing,
            resolved.recipe.data.workers,
            progress.update if progress is not None else ignore,
        )
        if progress is not None:
            progress.close()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    processes.leave()
    return 0


def ignore(count: int) -> None:
    """Report no progress: only the first process has a progress bar."""


if __name__ == "__main__":
    from launch.process import exit_with

    exit_with(lambda: main(Path(sys.argv[1])))
