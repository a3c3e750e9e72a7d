"""The results of evaluations: tables with intervals and chance, paired differences, and what details hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.reporting.blocks import Bar, Block, Bullets, Cell, Heading, Plots, Table
from distill.reporting.facts import Result, RunFacts
from distill.reporting.numbers import (
    count,
    difference,
    interval,
    is_share,
    metric_label,
    metric_value,
    percent,
    task_name,
)
from distill.reporting.sections.details import breakdowns, plots

MOST_RUNS_IN_PAIRS = 3  # with more runs, each is compared with the first one only
SCALES = (0.05, 0.1, 0.25, 0.5, 1.0)  # at which bars of a table may be full


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """A part for each task but "fidelity", which stands with the sizes of students and teacher."""
    tasks = dict.fromkeys(result["task"] for run in runs for result in run.results)
    found: list[Block] = []
    for task in tasks:
        if task != "fidelity":
            found += task_blocks(task, runs)
    return found


def task_blocks(task: str, runs: Sequence[RunFacts]) -> list[Block]:
    """Heading, table, differences, plots and breakdowns of one task."""
    results = {run.name: result for run in runs if (result := run.result(task)) is not None}
    found: list[Block] = [Heading(task_name(task)), table(results, len(runs) > 1)]
    if differences := difference_table(task, runs):
        found.append(differences)
        found += [Bullets(clear)] if (clear := clear_differences(task, runs)) else []
    if drawn := plots(results):
        found.append(Plots(drawn))
    return found + breakdowns(results)


def table(results: Mapping[str, Result], several: bool) -> Table:
    """The metrics of a task: of one run with interval and chance in columns, of several with a column for each."""
    first = next(iter(results.values()))
    metrics = list(dict.fromkeys(metric for result in results.values() for metric in result["metrics"]))
    scale = bar_scale(results.values())
    caption = (
        f"On {count(first['samples'])} {'sample' if first['samples'] == 1 else 'samples'} of {shards(first['data'])}."
    )
    if any(map(is_share, metrics)):
        marks = "; the mark is chance" if any(result["chance"] for result in results.values()) else ""
        ranges = ", the line across its end the interval" if any(r["intervals"] for r in results.values()) else ""
        caption += f" A full bar is {percent(scale, 0)}{ranges}{marks}."
    if several:
        rows: list[list[Cell]] = [
            [
                metric_label(metric),
                *(cell(result, metric, scale, True) for result in results.values()),
                chance_of(results.values(), metric),
            ]
            for metric in metrics
        ]
        return without_empty(Table(caption, ["metric", *results, "chance"], rows))
    rows = [
        [
            metric_label(metric),
            cell(first, metric, scale, False),
            interval(metric, first["intervals"].get(metric)),
            chance_of([first], metric),
        ]
        for metric in metrics
    ]
    return without_empty(Table(caption, ["metric", "value", "95 % interval", "chance"], rows))


def shards(names: Sequence[str]) -> str:
    """The names of the shards that were measured on."""
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else "data that are not named"


def bar_scale(results: Any) -> float:
    """The share at which the bars of a table are full: the smallest of ``SCALES`` that holds all of them."""
    highest = max(
        (
            max(value, (result["intervals"].get(metric) or (0, 0))[1], result["chance"].get(metric) or 0)
            for result in results
            for metric, value in result["metrics"].items()
            if is_share(metric)
        ),
        default=1.0,
    )
    return next((scale for scale in SCALES if highest <= scale), 1.0)


def cell(result: Result, metric: str, scale: float, with_interval: bool) -> Cell:
    """The value of a metric, with a bar if it is a share."""
    value = result["metrics"].get(metric)
    text, bounds = metric_value(metric, value), result["intervals"].get(metric)
    detail = interval(metric, bounds) if with_interval and bounds else ""
    if value is None or not is_share(metric):
        return f"{text} ({detail})" if detail else text
    whisker = (bounds[0], bounds[1]) if bounds else None
    return Bar(text, value, scale, whisker, result["chance"].get(metric), detail)


def chance_of(results: Any, metric: str) -> str:
    """What guessing gives; "–" if that is not known."""
    values = [result["chance"][metric] for result in results if metric in result["chance"]]
    return metric_value(metric, values[0]) if values else "–"


def without_empty(table: Table) -> Table:
    """A table without columns that are all "–"."""
    kept = [k for k in range(len(table.columns)) if k == 0 or any(row[k] != "–" for row in table.rows)]
    rows = [[row[k] for k in kept] for row in table.rows]
    words = frozenset(kept.index(k) for k in table.text_columns if k in kept)
    return Table(table.caption, [table.columns[k] for k in kept], rows, words)


def pairs(task: str, runs: Sequence[RunFacts]) -> dict[tuple[str, str], Mapping[str, Mapping[str, Any]]]:
    """The differences of two runs by metric, by the names of both: of all pairs of a few runs, of the first run with
    each of many."""
    firsts = runs if len(runs) <= MOST_RUNS_IN_PAIRS else runs[:1]
    return {
        (run.name, other.name): found
        for k, run in enumerate(firsts)
        for other in runs[k + 1 :]
        if (found := run.differences.get(other.name, {}).get(task))
    }


def difference_table(task: str, runs: Sequence[RunFacts]) -> Table | None:
    """The differences of pairs of runs, a column for each; None if there are none."""
    found = pairs(task, runs)
    metrics = dict.fromkeys(metric for values in found.values() for metric in values)
    if not metrics:
        return None
    caption = "Differences on the same samples; those of shares are in percentage points. "
    known = any(one.get("interval") for values in found.values() for one in values.values())
    caption += "In brackets the 95 % interval." if known else "Their intervals are not known."
    rows = [
        [metric_label(metric), *(difference_text(metric, values.get(metric)) for values in found.values())]
        for metric in metrics
    ]
    return Table(caption, ["metric", *(f"{name} − {other}" for name, other in found)], rows)


def difference_text(metric: str, found: Mapping[str, Any] | None) -> str:
    """A difference with its interval, if it has one."""
    if found is None:
        return "–"
    text, bounds = difference(metric, found["value"]), found.get("interval")
    return f"{text} ({difference(metric, bounds[0])} to {difference(metric, bounds[1])})" if bounds else text


def clear_differences(task: str, runs: Sequence[RunFacts]) -> list[str]:
    """Sentences on the differences whose interval excludes 0, as one for each pair of runs."""
    by_pair: dict[tuple[str, str], list[str]] = {}
    for pair, values in pairs(task, runs).items():
        for metric, found in values.items():
            bounds = found.get("interval")
            if bounds and (bounds[0] > 0 or bounds[1] < 0):
                text = f"{metric_label(metric)} {difference(metric, found['value'])}"
                by_pair.setdefault(pair, []).append(text)
    return [
        f"{name} differs from {other} beyond chance: {'; '.join(texts)}." for (name, other), texts in by_pair.items()
    ]
