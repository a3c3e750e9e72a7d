"""Everything that a study has found, as JSON can hold it: ``study.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.studies.comparison import compare
from distill.studies.measured import Evaluations
from distill.studies.runs import COMPLETE, Run
from distill.studies.variants import Variants

Tree = dict[str, Any]


def summarise(source: str, variants: Variants, runs: Sequence[Run], evaluations: Evaluations) -> Tree:
    """What is known of a study's runs.

    Args:
        source: the name of the recipe.
        variants: of the study, the reference first.
        runs: all of them.
        evaluations: with the results.

    Returns:
        {"recipe", "reference", "seeds", "variants": {name: {"settings", "folder", "runs": {seed: state}}},
        "results": [one object a task and metric: {"task", "data", "metric", "higher_is_better", "chance", "variants":
        {name: see :class:`~distill.studies.comparison.Compared`}}], "failed": [{"variant", "seed", "message"}]}.
    """
    states = {(run.variant.name, run.seed): run.state for run in runs}
    seeds = sorted({run.seed for run in runs})
    failures = evaluations.results.failures
    complete = [run for run in runs if states[run.variant.name, run.seed] == COMPLETE]
    folders = {run: str(run.folder.relative_to(evaluations.out)) for run in runs}
    return {
        "recipe": source,
        "reference": variants.reference.name,
        "seeds": seeds,
        "variants": {
            one.name: {
                "settings": list(one.settings),
                "folder": f"runs/{one.folder}",
                "runs": {str(seed): states[one.name, seed] for seed in seeds},
            }
            for one in variants.all
        },
        "results": compared(variants, complete, evaluations),
        "failed": [
            {"variant": run.variant.name, "seed": run.seed, "message": failures[folder]}
            for run, folder in folders.items()
            if folder in failures
        ],
    }


def compared(variants: Variants, complete: Sequence[Run], evaluations: Evaluations) -> list[Tree]:
    """The comparison of all variants in each task and metric; see :func:`summarise`."""
    values: dict[tuple[str, str], dict[str, dict[int, float | None]]] = {}
    about: dict[tuple[str, str], Tree] = {}
    # Of what the variants share, such as chance, the reference has the first word.
    for run in sorted(complete, key=lambda run: run.variant is not variants.reference):
        for record in evaluations.known(run.folder, run.recipe):
            for result in record["results"]:
                for metric, value in result["metrics"].items():
                    key = (result["task"], metric)
                    own = values.setdefault(key, {one.name: {} for one in variants.all})
                    own[run.variant.name][run.seed] = value
                    about.setdefault(key, about_metric(result, metric))
    order = list(dict.fromkeys(task for task, _ in values))
    trees = list[Tree]()
    for key in sorted(values, key=lambda key: order.index(key[0])):
        found = compare(values[key], variants.reference.name)
        trees.append(about[key] | {"variants": {name: one.as_tree() for name, one in found.items()}})
    return trees


def about_metric(result: Tree, metric: str) -> Tree:
    """What there is to say about a metric besides its values."""
    return {
        "task": result["task"],
        "data": result["data"],
        "metric": metric,
        "higher_is_better": result["higher_is_better"].get(metric, True),
        "chance": result["chance"].get(metric),
    }
