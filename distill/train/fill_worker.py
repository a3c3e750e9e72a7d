"""One process of several that fill teacher caches: started by path, with the folder that says what to do."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from teachers import Teacher

    Live = Callable[[int], Teacher]

RECIPE, TODO = "recipe.toml", "todo.json"


def main(folder: Path) -> int:
    from launch.process import set_up_process

    set_up_process()
    from distill.data.cache_fill import Todo, embed
    from distill.data.shards import Shards, read_index
    from distill.errors import UserError
    from distill.progress import progress_bar
    from distill.recipe import check
    from distill.train import setup
    from launch import group as processes

    group = processes.join()
    try:
        recipe = check(tomllib.loads((folder / RECIPE).read_text(encoding="utf-8")))
        caches = setup.caches_of(recipe)
        lacking = json.loads((folder / TODO).read_text(encoding="utf-8"))
        todo = Todo(
            Shards([read_index(Path(path)) for path, _ in lacking]), tuple(tuple(some) for _, some in lacking)
        ).part(group.rank, group.world)
        label = f"embedding, process {group.rank + 1} of {group.world}"
        progress = progress_bar(label, len(todo.shards), "images") if group.first else None
        embed(
            caches,
            setup.live_teachers(caches, group.device),
            todo,
            recipe.data.workers,
            progress.update if progress else unseen,
        )
        if progress:
            progress.close()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    processes.leave()
    return 0


def unseen(count: int) -> None:
    """The progress of all processes but the first."""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
