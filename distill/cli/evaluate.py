"""``distill evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from distill.cli.listing import ListingCommand


@click.command(cls=ListingCommand, title="Tasks", names="distill.evals.runner:tasks")
@click.argument("path", metavar="RUN|EXPORT", type=click.Path(path_type=Path))
@click.option("--task", required=True, help="What to measure; the tasks are listed below.")
@click.option("--data", multiple=True, help="Shards; repeatable. Default for a run: its recipe's data.eval.")
@click.option(
    "--language", "languages", multiple=True, help="Only captions of this language or without one; repeatable."
)
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Set an option of the task; repeatable.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write the result to a file.")
@click.option(
    "--alpha", type=click.FloatRange(0, 1), help="The teacher's weight in image embeddings; for runs without heads."
)
@click.option("--skip-bad", is_flag=True, help="Leave out samples that cannot be used; they are counted and named.")
@click.option("--device", help="Such as cuda or cpu; default a GPU if there is one.")
def evaluate(
    path: Path,
    task: str,
    data: tuple[str, ...],
    languages: tuple[str, ...],
    options: tuple[str, ...],
    file: Path | None,
    alpha: float | None,
    skip_bad: bool,
    device: str | None,
) -> None:
    """Measure a run or an export; the result is JSON on standard output.

    \b
    Examples:
      distill evaluate runs/first --task retrieval
      distill evaluate runs/headless --task retrieval --alpha 0.5
      distill evaluate my-model --task retrieval --data 'shards/test-{000000..000003}.tar' --json test.json
    """
    import distill
    from distill.errors import UserError
    from distill.files import write_text
    from distill.recipe import apply_override
    from distill.wording import counted

    if file is not None and file.exists():
        raise UserError(f"{file} already exists.", "Choose another --json.")
    tree: dict[str, Any] = {}
    for option in options:
        apply_override(tree, option)
    for flag, key, values in (("--data", "data", data), ("--language", "languages", languages)):
        if values and key in tree:
            raise UserError(f"Both {flag} and --set {key} are given.", "Leave one of them out.")
        tree |= {key: values} if values else {}
    found = distill.evaluate(path, task, tree, device=device, alpha=alpha, skip_bad=skip_bad)
    if found.get("bad"):
        first = found["bad_examples"][0]
        samples = counted(found["bad"], "sample")
        click.echo(f"{samples} left out; the first: {first['shard']} {first['key']}: {first['reason']}", err=True)
    result = json.dumps(found, indent=1)
    click.echo(result)
    if file is not None:
        write_text(file, result + "\n")
