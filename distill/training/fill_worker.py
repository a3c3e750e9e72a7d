"""One process of several that fill teacher caches: started by path, with a folder that says what to compute."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

RECIPE, MISSING = "recipe.toml", "missing.json"


def main(folder: Path) -> int:
    from distill.data.cache_fill import MissingShards, embed
    from distill.data.shards import Shards, read_index
    from distill.errors import UserError
    from distill.lookup import resolve
    from distill.progress import progress_bar
    from distill.recipe import parse
    from distill.training.setup import Networks, caches_of
    from launch import group as processes
    from launch.process import set_up_process

    set_up_process()
    group = processes.join()
    try:
        resolved = resolve(parse(tomllib.loads((folder / RECIPE).read_text(encoding="utf-8"))))
        networks, caches = Networks(resolved), caches_of(resolved)
        numbers = [k for k, teacher in enumerate(resolved.teachers) if not teacher.online]
        lacking = json.loads((folder / MISSING).read_text(encoding="utf-8"))
        missing = MissingShards(
            Shards([read_index(Path(path)) for path, _ in lacking]), tuple(tuple(some) for _, some in lacking)
        ).part(group.rank, group.world)
        label = f"embedding, process {group.rank + 1} of {group.world}"
        progress = progress_bar(label, len(missing.shards), "images") if group.first else None
        embed(
            caches,
            lambda k: networks.teacher(numbers[k], group.device),
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
    """The progress of all processes but the first is not shown."""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
