"""``distill.study``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.config import Recipe
    from distill.studies.study import StudyRuns
    from distill.studies.variants import Variant
    from launch.launcher import Launcher

SEEDS = 3


@dataclass(frozen=True)
class Study:
    """The result of :func:`study`.

    Attributes:
        out: the folder of the study.
        complete: whether it has come to its end; if not, it was stopped, and the same call goes on.
        summary: what is known of all runs, as ``study.json`` has it.
        failed: the runs that have failed in this call, as (variant, seed).
    """

    out: Path
    complete: bool
    summary: dict[str, Any]
    failed: tuple[tuple[str, int], ...] = ()


def study(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    seeds: int | None = None,
    axes: Mapping[str, Iterable[Any]] | None = None,
    product: bool = False,
    variants: Mapping[str, Iterable[str]] | None = None,
    grid: str | Path | None = None,
    reference: str = "",
    overrides: str | Iterable[str] = (),
    only: Sequence[str] = (),
    tasks: str | Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    skip_bad: bool = False,
    best: bool = False,
    keep_checkpoints: bool = False,
    launcher: Launcher | None = None,
    allow_pipe: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> Study:
    """Train a recipe in variants and with several seeds, evaluate each run, and compare the variants.

    The tables have the form of Table E.4 of arXiv 2305.16999: differences to a reference with their standard deviation
    and two standard errors, here over seeds, where the paper has them over tasks. Called again with the same folder it
    does what is missing: further seeds and variants, interrupted and failed runs.

    Example:
        >>> distill.study("first.toml", "studies/weight", seeds=5, axes={"objective.weight": [0.5, 2.0]})

    Args:
        recipe: a TOML file, the name of a packaged recipe, or a recipe from ``distill.recipe.load``.
        out: the folder of the study; default ``studies/RECIPE``.
        seeds: how many seeds each variant is trained with: ``train.seed`` of the recipe and those after it; default
            what the grid says, or 3.
        axes: values of keys of the recipe; each is a variant. A string is read as ``--set`` reads it.
        product: every combination of the values of several axes is a variant, not one value at a time.
        variants: the settings of further variants by name, ``section.key=value``.
        grid: a TOML file with variants, or the name of a packaged grid.
        reference: the variant that the others are compared with; default the recipe as it is, or what the grid says.
        overrides: settings of all variants.
        only: make the runs of these variants; the tables have all that is known of the others, too.
        tasks: the evaluations; none makes all that the models and the data allow.
        options: of the evaluations, as for :func:`distill.evaluate`. The recipe's [[evaluate]] gives defaults.
        device, skip_bad, best: see :func:`distill.evaluate`.
        keep_checkpoints: keep the checkpoints that the recipe keeps; otherwise the last one of each complete run.
        launcher, allow_pipe: see :func:`distill.train`.
        say: is called with a line about what is done.

    Raises:
        distill.UserError: for anything the user can put right before training. A run that fails later does not stop
            the others; it is in ``failed``, with its message in ``summary["failed"]``.
    """
    from distill.studies.study import Training
    from distill.training.together import together

    source = {"grid": grid, "axes": axes, "product": product, "named": variants, "reference": reference}
    measured = {"tasks": tasks, "options": options, "device": device, "skip_bad": skip_bad, "best": best}

    def work() -> Study:
        runs, chosen = open_study(recipe, out, overrides, seeds, only, source, measured, say)
        complete = runs.carry_out(chosen, Training(launcher, allow_pipe, keep_checkpoints))
        return Study(runs.out, complete, runs.summary(), tuple((run.variant.name, run.seed) for run in runs.failed))

    return together(work)


def open_study(
    recipe: str | Path | Recipe,
    out: str | Path | None,
    overrides: str | Iterable[str],
    seeds: int | None,
    only: Sequence[str],
    source: Mapping[str, Any],
    measured: Mapping[str, Any],
    say: Callable[[str], object] = lambda line: None,
) -> tuple[StudyRuns, tuple[Variant, ...]]:
    """The runs of a study, and the variants of which runs are to be made; nothing is written.

    Args:
        recipe, out, overrides, seeds, only, say: see :func:`study`.
        source: of the variants: "grid", "axes", "product", "named" and "reference".
        measured: how runs are evaluated: "tasks", "options", "device", "skip_bad" and "best".

    Raises:
        UserError: if a variant, a task or an option is not valid.
    """
    from distill.errors import UserError
    from distill.evals.runner import Settings
    from distill.evals.store import default_folder
    from distill.studies.measured import Evaluations, anchored
    from distill.studies.settings import read_grid
    from distill.studies.study import StudyRuns
    from distill.studies.variants import make_variants

    name = Path(recipe).stem if isinstance(recipe, str | Path) else "recipe"
    folder = (Path(out) if out is not None else Path("studies") / name).absolute()
    grid = read_grid(source["grid"])
    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    made = make_variants(recipe, overrides, **{**source, "grid": grid})
    count = SEEDS if not (seeds or grid.table.seeds) else seeds or grid.table.seeds
    if seeds is not None and seeds < 1:
        raise UserError(f"{seeds} seeds train nothing.", "Choose at least 1.")
    first = made.reference.recipe.train.seed

    own = anchored(measured["options"] or {}, Path.cwd())
    of_grid = {**grid.table.options, **({"data": grid.table.data} if grid.table.data else {})}
    tasks = [measured["tasks"]] if isinstance(measured["tasks"], str) else list(measured["tasks"])
    settings = Settings(measured["device"], None, measured["skip_bad"], default_folder(), "", measured["best"])
    options = {**anchored(of_grid, grid.folder), **own}
    defaults = made.reference.recipe.evaluate
    evaluations = Evaluations(folder, tasks or grid.table.task, options, defaults, settings)
    runs = StudyRuns(name, folder, made, range(first, first + count), evaluations, say)
    return runs, made.named(only)
