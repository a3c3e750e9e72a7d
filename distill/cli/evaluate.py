"""``distill evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from distill.cli.listing import ListingCommand

DATA = (("--data", "data"), ("--train", "train"), ("--language", "languages"))
FILES = (("--label", "label"), ("--classes", "classes"), ("--templates", "templates"))


@click.command(cls=ListingCommand, title="Tasks", names="distill.evals.plan:tasks")
@click.argument("model", metavar="RUN|EXPORT|TEACHER|open_clip/ARCH@WEIGHTS")
@click.option("--task", "tasks", multiple=True, help="What to measure; repeatable. Default: all that is possible.")
@click.option("--data", multiple=True, help="What to measure on; repeatable. Default for a run: its data.eval.")
@click.option("--train", multiple=True, help="What classifiers learn from; default: the train split of --data.")
@click.option("--label", help="The key or column that holds a sample's class; default label, class or KEY.cls.")
@click.option("--classes", metavar="FILE", help="The names of the classes, one a line, or JSON with synonyms.")
@click.option("--templates", metavar="FILE", help="Texts with {} for a class's name, one a line.")
@click.option(
    "--language", "languages", multiple=True, help="Only captions of this language or without one; repeatable."
)
@click.option(
    "--set", "options", multiple=True, metavar="[TASK.]KEY=VALUE", help="Set an option of a task; repeatable."
)
@click.option("--against", metavar="MODEL", default="", help="Another model to compare with, on the same data.")
@click.option(
    "--json", "file", metavar="FILE", help="Write the results to a file, too; - prints them instead of tables."
)
@click.option(
    "--alpha", type=click.FloatRange(0, 1), help="The teacher's weight in image embeddings; for runs without heads."
)
@click.option("--skip-bad", is_flag=True, help="Leave out samples that cannot be used; they are counted and named.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where embeddings are kept; default ~/.cache/distill.")
@click.option("--no-cache", is_flag=True, help="Keep no embeddings on disk.")
@click.option("--best", is_flag=True, help="Of a run, its best checkpoint by the metric that its recipe names.")
@click.option("--device", help="Such as cuda or cpu; default a GPU if there is one.")
def evaluate(
    model: str,
    tasks: tuple[str, ...],
    options: tuple[str, ...],
    against: str,
    file: str | None,
    alpha: float | None,
    skip_bad: bool,
    cache: Path | None,
    no_cache: bool,
    best: bool,
    device: str | None,
    **data: Any,
) -> None:
    """Measure a run, an export, an image teacher or a model of open_clip.

    \b
    Examples:
      distill evaluate runs/first
      distill evaluate runs/first --task retrieval --against runs/second
      distill evaluate runs/headless --task retrieval --alpha 0.5
      distill evaluate my-model --data cifar10/ --task zero_shot --task few_shot --set few_shot.seeds=5
      distill evaluate packaged/efficientnet_lite0 --task knn --data flowers/test --train flowers/train
      distill evaluate my-model --task retrieval --data 'shards/test-{000000..000003}.tar' --json test.json
    """
    import distill
    from distill.errors import UserError
    from distill.evals.tables import as_text
    from distill.files import write_text
    from distill.wording import counted

    if file not in (None, "-") and Path(file).exists():
        raise UserError(f"{file} already exists.", "Choose another --json.")
    if cache is not None and no_cache:
        raise UserError("--cache and --no-cache are both given.", "Leave one of them out.")
    found = distill.evaluate(
        model,
        list(tasks),
        tree_of(options, data),
        device=device,
        alpha=alpha,
        skip_bad=skip_bad,
        cache=not no_cache if cache is None else cache,
        against=against or None,
        best=best,
    )
    for result in found["results"][:1]:
        if result.get("bad"):
            first = result["bad_examples"][0]
            samples = counted(result["bad"], "sample")
            click.echo(f"{samples} left out; the first: {first['shard']} {first['key']}: {first['reason']}", err=True)
    text = json.dumps(found, indent=1)
    click.echo(text if file == "-" else as_text(found))
    if file not in (None, "-"):
        write_text(Path(file), text + "\n")


def tree_of(options: tuple[str, ...], data: dict[str, Any]) -> dict[str, Any]:
    """The options of ``--set`` and those with flags of their own, by name.

    Raises:
        UserError: if one is given in both ways.
    """
    from distill.errors import UserError
    from distill.recipe import apply_override

    tree: dict[str, Any] = {}
    for option in options:
        apply_override(tree, option)
    for flag, key in (*DATA, *FILES):
        if data[key] and key in tree:
            raise UserError(f"Both {flag} and --set {key} are given.", "Leave one of them out.")
        tree |= {key: data[key]} if data[key] else {}
    return tree
