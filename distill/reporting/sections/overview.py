"""The first section: the numbers that matter, and what to try next."""

from __future__ import annotations

from collections.abc import Sequence

from distill.reporting.advice import advice
from distill.reporting.blocks import Block, Bullets, Heading, Table, Tile, Tiles
from distill.reporting.facts import Result, RunFacts, Tower
from distill.reporting.numbers import count, interval, metric_label, metric_value, percent, short, task_name

MOST_METRICS = 4
PREFERRED = ("t2i_r10", "i2t_r10", "accuracy", "top1")  # metrics that stand for a task; otherwise its first one


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """Tiles of one run, or a table of several; then advice and what is not shown."""
    found: list[Block] = [Tiles(tiles(runs[0]))] if len(runs) == 1 else [summary(runs)]
    found += named_list("What to try next", runs, {run.name: advice(run) for run in runs})
    found += named_list("What this report does not show", runs, {run.name: list(run.notes) for run in runs})
    return found


def named_list(title: str, runs: Sequence[RunFacts], items: dict[str, list[str]]) -> list[Block]:
    """A heading and a list, with the names of the runs if there are several; nothing if no run has an item."""
    owners: dict[str, list[str]] = {}
    for name, own in items.items():
        for sentence in own:
            owners.setdefault(sentence, []).append(name)
    if not owners:
        return []
    if len(runs) == 1:
        return [Heading(title), Bullets(list(owners))]
    named = {s: "All runs" if len(names) == len(runs) else ", ".join(names) for s, names in owners.items()}
    return [Heading(title), Bullets([f"{names}: {sentence}" for sentence, names in named.items()])]


def main_metrics(results: Sequence[Result]) -> list[tuple[Result, str]]:
    """(result, metric) of the metrics that stand for a run."""
    found = []
    for result in results:
        if result["task"] != "fidelity":
            names = [name for name in PREFERRED if name in result["metrics"]] or list(result["metrics"])[:1]
            found += [(result, name) for name in names]
    return found[:MOST_METRICS]


def tiles(run: RunFacts) -> list[Tile]:
    """The numbers of one run."""
    found = []
    for result, metric in main_metrics(run.results):
        notes = []
        if bounds := result["intervals"].get(metric):
            notes.append(f"95 % interval {interval(metric, bounds)}")
        if metric in result["chance"]:
            notes.append(f"chance {metric_value(metric, result['chance'][metric])}")
        value = metric_value(metric, result["metrics"][metric])
        found.append(Tile(value, tile_label(result["task"], metric), "; ".join(notes)))
    fidelity = run.result("fidelity")
    for metric in ("retention_knn", "retention_linear"):
        if fidelity is not None and metric in fidelity["metrics"]:
            bounds = fidelity["intervals"].get(metric)
            note = f"95 % interval {interval(metric, bounds)}" if bounds else ""
            what = metric_label(metric.removeprefix("retention_"))
            found.append(Tile(metric_value(metric, fidelity["metrics"][metric]), f"of the teacher's {what}", note))
    found += size_and_speed(run.speed.tower("image student"), run.speed.tower("teacher"))
    if "loss" in run.curves.logged:
        loss = run.curves.logged["loss"]
        found.append(Tile(short(loss.last), "loss of the last step", f"{short(loss.first)} at the first"))
    return found


def tile_label(task: str, metric: str) -> str:
    """The name of a metric with its task, unless it is one of retrieval, whose names say what they are."""
    label = metric_label(metric)
    return label if task == "retrieval" else f"{task_name(task)}: {label}"


def size_and_speed(student: Tower | None, teacher: Tower | None) -> list[Tile]:
    """Tiles on the image student beside the teacher."""
    if student is None:
        return []
    share = f"{percent(student.parameters / teacher.parameters, 0)} of the teacher's" if teacher else ""
    found = [Tile(millions(student.parameters), "parameters of the image student", share)]
    if student.per_second and teacher and teacher.per_second:
        times = student.per_second / teacher.per_second
        found.append(
            Tile(
                f"{short(times) if times < 10 else count(times)} ×",
                "as fast as the teacher",
                f"{count(student.per_second)} images per second, teacher {count(teacher.per_second)}",
            )
        )
    elif student.per_second:
        found.append(Tile(count(student.per_second), "images per second", "measured here"))
    return found


def millions(number: int) -> str:
    """A number of parameters: "0.91 M"."""
    return (
        f"{number / 1e6:,.{0 if number >= 1e8 else 1 if number >= 1e7 else 2}f} M" if number >= 1e5 else count(number)
    )


def summary(runs: Sequence[RunFacts]) -> Table:
    """A row for each run of a comparison."""
    columns = ["run", "objective", "teacher", "steps", "parameters, image student", "images per second", "last loss"]
    metrics = list(
        dict.fromkeys((result["task"], metric) for run in runs for result, metric in main_metrics(run.results))
    )
    columns[4:4] = [tile_label(task, metric) for task, metric in metrics]
    rows = []
    for run in runs:
        student, loss = run.speed.tower("image student"), run.curves.logged.get("loss")
        values = []
        for task, metric in metrics:
            result = run.result(task)
            values.append("–" if result is None else metric_value(metric, result["metrics"].get(metric)))
        rows.append(
            [
                *(run.name, run.objective, ", ".join(run.teachers) or "none"),
                f"{count(run.curves.last_step)} of {count(run.total_steps)}",
                *values,
                millions(student.parameters) if student else "–",
                count(student.per_second) if student and student.per_second else "–",
                short(loss.last) if loss else "–",
            ]
        )
    return Table("The runs side by side", columns, rows, frozenset({1, 2}))
