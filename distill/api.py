"""The public Python functions, which the ``distill`` command calls; each imports what it needs when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    extend: bool = False,
    init: str | Path | None = None,
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
        extend: with ``resume``, let the run get another length: from there on the learning rate is the one that a run
            of the new length has at that step.
        init: a run or export whose students are the initial weights, with its tokenizer; the run starts at step 0.
        launcher: starts the processes that train, such as ``launch.launchers.local.Local(nproc=8)``; None trains in
            this process, or, if torchrun, srun or mpirun started several processes of this program, in all of them.
        allow_pipe: whether the recipe may run the shell commands of its ``pipe:`` streams.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.errors import UserError
    from distill.recipe import start_from
    from distill.training.start import start
    from distill.training.together import together

    name = "recipe" if not isinstance(recipe, str | Path) else Path(recipe).stem
    run = Path(out) if out is not None else Path("runs") / name
    if extend and not resume:
        raise UserError("Only a run that is continued can be extended.", "Add resume, or leave out extend.")
    if init is not None and resume:
        raise UserError("A run that is continued has its own weights.", "Leave out init, or resume.")

    def work() -> Training:
        loaded = load_recipe(recipe, overrides)
        if init is not None:
            loaded = start_from(loaded, Path(init))
        complete = start(loaded, run, resume=resume, launcher=launcher, allow_pipe=allow_pipe, extend=extend)
        return Training(run, complete)

    return together(work)


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
    from distill.training.together import together

    return together(lambda: embed(load_recipe(recipe, overrides), None if out is None else Path(out), launcher))


def evaluate(
    model: str | Path,
    task: str | Sequence[str] | None = None,
    /,
    options: Mapping[str, Any] | None = None,
    *,
    device: str | None = None,
    alpha: float | None = None,
    skip_bad: bool = False,
    cache: bool | str | Path = True,
    against: str | Path | None = None,
    best: bool = False,
    **more_options: Any,
) -> dict[str, Any]:
    """Measure a run, an export, an image teacher or a model of open_clip.

    Example:
        >>> distill.evaluate("my-model", "retrieval", data="shards/test-000000.tar")["metrics"]["t2i_r10"]

    Args:
        model: a run or export folder, the name of a teacher's card, or ``open_clip/ARCH@WEIGHTS``.
        task: the name of an evaluation, or several; None makes all that the model and the data allow.
        options, more_options: of the evaluation: ``data`` names what to measure on, by default a run's ``data.eval``;
            of several, ``{"few_shot": {"seeds": 5}}``.
        device: such as ``"cuda"``; default a GPU where there is one.
        alpha: of a run that was trained without heads, the teacher's share in the embedding of an image.
        skip_bad: leave out samples that cannot be used; a result then has "bad", their number, and "bad_examples".
        cache: the folder in which embeddings are kept; True is one below ``~/.cache/distill``, False keeps none.
        against: another model, which is measured on the same data; a result then has "differences".
        best: of a run, measure the best checkpoint by the metric that its recipe's [[evaluate]] names.

    Returns:
        Of one task, its result: {"task", "data", counts, "metrics", "intervals", "chance", "details"}. Of several or
        None, {"model", "results", "not_made"}.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.evals.runner import Settings, run
    from distill.evals.store import default_folder

    folder = default_folder() if cache is True else None if cache is False else Path(cache)
    settings = Settings(device, alpha, skip_bad, folder, str(against or ""), best)
    chosen = [task] if isinstance(task, str) else list(task or [])
    found = run(model, chosen, {**(options or {}), **more_options}, settings)
    return found["results"][0] if isinstance(task, str) else found


def export(run: str | Path, out: str | Path, format: str | Sequence[str] = "distill", **options: Any) -> Path:
    """Write a run's students, as of its newest checkpoint, to a new folder.

    Args:
        run: the run folder, or an export in distill's own format.
        out: the folder to be made.
        format: the name of an export format, or several: then each is written to a folder of its name in ``out``.
        options: best, dtype, int8, calibrate, data, metrics, licence: see :func:`distill.evals.exports.write_exports`.

    Returns:
        ``out``.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.evals.exports import write_exports

    write_exports(run, out, [format] if isinstance(format, str) else format, **options)
    return Path(out)


def load(path: str | Path, device: str | None = None, alpha: float | None = None, *, best: bool = False) -> ImageText:
    """Open an export, or a run at its newest checkpoint, for inference.

    Args:
        path: the folder that ``distill export`` or ``distill train`` wrote.
        device: such as ``"cuda"``; default a GPU where there is one.
        alpha: of a run that was trained without heads, the teacher's share in the embedding of an image.
        best: a run at its best checkpoint by the metric that its recipe's [[evaluate]] names.

    Raises:
        distill.UserError: if the folder is neither, or ``alpha`` makes no sense for it.
    """
    from distill.ship.load import load as load_students

    return load_students(Path(path), device, alpha, best)


def pack(
    source: str | Path,
    out: str | Path,
    *,
    root: str | Path | None = None,
    image: str = "",
    captions: Sequence[str] = (),
    template: str = "",
    separator: str = "",
    keep: Sequence[str] = (),
    test_percent: int | None = None,
    split_by: str = "file",
    drop_duplicates: bool = False,
    dedup_against: Sequence[str | Path] = (),
    per_shard: int = 1000,
) -> list[Path]:
    """Make WebDataset shards of pictures and captions.

    Several rows of one picture become one sample with several captions. Samples are written in an order that a hash of
    the pictures' names decides, so that the same source gives the same shards, with its classes mixed.

    Args:
        source: a table (CSV, TSV, other separators, JSON Lines, JSON, Parquet), COCO captions, a folder of pictures
            with a file of captions beside each or with ``metadata.csv``, a folder with one folder a class, or shards.
        out: the folder for the shards; what was left out, and why, is in its ``left-out.jsonl``.
        root: what a table's paths are relative to; default the table's own folder.
        image: a table's column of files; default a usual name.
        captions: a table's columns of captions, or the keys of captions in the JSON of shards; default usual names.
        template: the caption of a class, with {} for its name; default "a photo of a {}", with "an" before a vowel.
        separator: of a table's columns; default the one with which its first line makes sense.
        keep: a table's columns that become entries of the sample's JSON, besides label, class and cls.
        test_percent: how many percent of the pictures go into ``test-*.tar``; None keeps the source's own splits.
        split_by: "file": equal files are all for training or all for testing; "content": so are pictures that look
            alike, also by way of others.
        drop_duplicates: leave out what looks like another picture of the source.
        dedup_against: shards; what looks like a picture of theirs is left out.
        per_shard: samples a shard.

    Returns:
        The shards: ``train-*.tar``, ``val-*.tar``, ``test-*.tar``.

    Raises:
        distill.UserError: for anything the user can put right; also if nothing is left to be written.
    """
    from distill.data.packing.choice import Settings
    from distill.data.packing.run import pack_source
    from distill.data.packing.source import Options

    options = Options(None if root is None else Path(root), image, tuple(captions), template, separator, tuple(keep))
    settings = Settings(test_percent, split_by, drop_duplicates, tuple(map(str, dedup_against)), per_shard)
    return pack_source(Path(source), Path(out), options, settings)


def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    format: str = "html",
    *,
    data: str | Path | Sequence[str | Path] = (),
    device: str | None = None,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Write the report on a run, or the comparison of several, as one file that needs no network.

    Example:
        >>> distill.report(["runs/first", "runs/second"], "comparison.html")

    Args:
        runs: the run folder, or several.
        out: the file, which must not exist; default ``report.FORMAT`` in the folder of a single run.
        format: the name of a report format.
        data: shards to evaluate on; default those of each run's ``data.eval``.
        device: such as ``"cuda"``; default a GPU where there is one.
        say: is called with a line about what is done; None: nothing is said.

    Returns:
        The file.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    from distill.reporting.write import write_report

    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    shards = [data] if isinstance(data, str | Path) else list(data)
    file = None if out is None else Path(out)
    return write_report(
        list(map(Path, paths)), file, format, list(map(str, shards)), device, say or (lambda line: None)
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
