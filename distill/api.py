"""The public Python functions, which the ``distill`` command calls; each imports what it needs when it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.config import Recipe
    from distill.ship.image_text import ImageText
    from launch.launcher import Launcher


@dataclass(frozen=True)
class Training:
    """The result of :func:`train`.

    Attributes:
        run: the run folder.
        complete: whether training has come to its end; if not, it was stopped and can be resumed.
    """

    run: Path
    complete: bool


def train(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    overrides: str | Iterable[str] = (),
    resume: bool = False,
    launcher: Launcher | None = None,
    allow_pipe: bool = False,
) -> Training:
    """Train a recipe.

    Example:
        >>> distill.train("three_towers", "runs/first", overrides=["data.train=shards/", "train.epochs=10"])

    Args:
        recipe: a TOML file, the name of a packaged recipe, or a recipe from ``distill.recipe.load``.
        out: the run folder; default ``runs/RECIPE``.
        overrides: ``section.key=value``, as ``--set`` on the command line; not for a recipe that is loaded already.
        resume: continue the run in ``out`` from its newest checkpoint.
        launcher: starts the processes that train, such as ``launch.launchers.local.Local(nproc=8)``; None trains in
            this process.
        allow_pipe: whether the recipe may run the shell commands of its ``pipe:`` streams.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.training.start import start

    name = "recipe" if not isinstance(recipe, str | Path) else Path(recipe).stem
    run = Path(out) if out is not None else Path("runs") / name
    loaded = load_recipe(recipe, overrides)
    return Training(run, start(loaded, run, resume=resume, launcher=launcher, allow_pipe=allow_pipe))


def embed_teachers(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    overrides: str | Iterable[str] = (),
    launcher: Launcher | None = None,
) -> dict[str, Any]:
    """Embed a recipe's training shards with its teachers, as training would do first.

    Args:
        recipe, overrides, launcher: see :func:`train`.
        out: the cache folder, for a recipe with one teacher; default what the recipe says.

    Returns:
        {"folders": [cache folders], "audits": {teacher: what comparing it with its cache found}}.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.training.fill_caches import embed_teachers as embed

    return embed(load_recipe(recipe, overrides), None if out is None else Path(out), launcher)


def evaluate(
    model: str | Path,
    task: str,
    /,
    options: Mapping[str, Any] | None = None,
    *,
    device: str | None = None,
    alpha: float | None = None,
    skip_bad: bool = False,
    **more_options: Any,
) -> dict[str, Any]:
    """Measure a run or an export.

    Example:
        >>> distill.evaluate("my-model", "retrieval", data="shards/test-000000.tar")["metrics"]["t2i_r10"]

    Args:
        model: the run or export folder.
        task: the name of an evaluation.
        options, more_options: of the evaluation; ``data`` names the shards, by default those of a run's ``data.eval``.
        device: such as ``"cuda"``; default a GPU where there is one.
        alpha: of a run that was trained without heads, the teacher's share in the embedding of an image.
        skip_bad: leave out samples that cannot be used; the result then has "bad", their number, and "bad_examples".

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.evals.runner import run

    return run(Path(model), task, {**(options or {}), **more_options}, device, alpha, skip_bad)


def export(run: str | Path, out: str | Path, format: str = "distill") -> Path:
    """Write a run's students, as of its newest checkpoint, to a new folder.

    Args:
        run: the run folder.
        out: the folder to be made.
        format: the name of an export format.

    Returns:
        ``out``.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.ship.export import export as write

    write(Path(run), Path(out), format)
    return Path(out)


def load(path: str | Path, device: str | None = None, alpha: float | None = None) -> ImageText:
    """Open an export, or a run at its newest checkpoint, for inference.

    Args:
        path: the folder that ``distill export`` or ``distill train`` wrote.
        device: such as ``"cuda"``; default a GPU where there is one.
        alpha: of a run that was trained without heads, the teacher's share in the embedding of an image.

    Raises:
        distill.UserError: if the folder is neither, or ``alpha`` makes no sense for it.
    """
    from distill.ship.load import load as load_students

    return load_students(Path(path), device, alpha)


def pack(
    source: str | Path,
    out: str | Path,
    *,
    root: str | Path | None = None,
    image: str = "",
    captions: Sequence[str] = (),
    template: str = "a photo of a {}",
    test_percent: int = 0,
    per_shard: int = 1000,
    dedup_against: Sequence[str | Path] = (),
) -> list[Path]:
    """Make WebDataset shards of a table of files and captions, or of a folder with one folder a class.

    Args:
        source: a .csv, .tsv or .jsonl table, or a folder.
        out: the folder for the shards; what was left out, and why, is in its ``left-out.jsonl``.
        root: what a table's paths are relative to; default the table's own folder.
        image: a table's column of files; default a usual name.
        captions: a table's columns of captions; default one with a usual name.
        template: the caption of a class, with {} for its name.
        test_percent: how many percent of the images go into ``test-*.tar``.
        per_shard: samples a shard.
        dedup_against: shards; what looks like an image of theirs is left out.

    Returns:
        The shards.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.data.pack_source import pack_source

    return pack_source(
        Path(source),
        Path(out),
        root=None if root is None else Path(root),
        image=image,
        captions=tuple(captions),
        template=template,
        test_percent=test_percent,
        per_shard=per_shard,
        dedup_against=tuple(map(str, dedup_against)),
    )


def load_recipe(recipe: str | Path | Recipe, overrides: str | Iterable[str] = ()) -> Recipe:
    """A recipe from a file, by name, or as it is.

    Raises:
        distill.UserError: if it cannot be read, or ``overrides`` are given for one that is loaded already.
    """
    from distill.errors import UserError
    from distill.recipe import load as load_file

    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    if isinstance(recipe, str | Path):
        return load_file(str(recipe), overrides)
    if overrides:
        raise UserError(
            f"The override {overrides[0]} is for a recipe that is loaded already.", "Give it to recipe.load."
        )
    return recipe
