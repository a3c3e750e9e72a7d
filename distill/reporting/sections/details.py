"""Plots and breakdowns from the details of results: calibration, curves, classes, languages, corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.reporting.blocks import Bar, Block, Cell, Line, Plot, Table
from distill.reporting.facts import Result
from distill.reporting.numbers import count, is_share, metric_label, metric_value, percent

MOST_CLASSES = 8  # of the best and of the worst ones
CURVE_NAMES = {"alpha": "the teacher's weight α in image embeddings", "shots": "examples of each class"}


def plots(results: Mapping[str, Result]) -> list[Plot]:
    """The reliability diagram and the curve of a task, with a line for each run."""
    found = []
    reliability = [
        Line(name if len(results) > 1 else "measured", points)
        for name, result in results.items()
        if (points := [(b["confidence"], b["accuracy"]) for b in bins_of(result)])
    ]
    if reliability:
        guide = Line("confidence = accuracy", ((0.0, 0.0), (1.0, 1.0)), guide=True)
        note = "Points below the diagonal: the model is surer than it is right."
        lines = [*reliability, guide]
        found.append(Plot("Reliability", "mean confidence", "accuracy", lines, percent=True, whole=True, note=note))
    curves = {name: result["details"] for name, result in results.items() if result["details"].get("curve")}
    if curves:
        first = next(iter(curves.values()))
        x, y = str(first.get("curve_x", "x")), str(first.get("curve_y", "value"))
        lines = [curve_line(name, details["curve"]) for name, details in curves.items()]
        doubling = x == "shots" and all(point[0] > 0 for line in lines for point in line.points)
        title = {"alpha": "Combination with the teacher", "shots": "Few examples"}.get(x, f"{y} by {x}")
        found.append(
            Plot(title, CURVE_NAMES.get(x, x), metric_label(y), lines, percent=is_share(y), doubling=doubling)
        )
    return found


def bins_of(result: Result) -> list[dict[str, Any]]:
    """The bins of confidence that hold samples, by rising confidence."""
    return sorted((one for one in result["details"].get("bins", ()) if one["count"]), key=lambda b: b["confidence"])


def curve_line(name: str, curve: Sequence[Mapping[str, Any]]) -> Line:
    """A curve of details as a line, with a band if every point has an interval."""
    points = sorted(curve, key=lambda point: point["x"])
    band = [(p["low"], p["high"]) for p in points] if all("low" in p and "high" in p for p in points) else []
    return Line(name, [(p["x"], p["value"]) for p in points], band)


def breakdowns(results: Mapping[str, Result]) -> list[Block]:
    """Tables of classes, languages and corruptions; for each run if there are several."""
    found: list[Block] = []
    for name, result in results.items():
        of = f" ({name})" if len(results) > 1 else ""
        found += classes(result["details"].get("by_class") or [], of)
        if languages := result["details"].get("by_language"):
            found.append(language_table(languages, of))
        if corruptions := result["details"].get("by_corruption"):
            found.append(corruption_table(corruptions, of))
    return found


def classes(by_class: Sequence[Mapping[str, Any]], of: str) -> list[Block]:
    """The best and the worst classes, or all if they are few."""
    ordered = sorted(by_class, key=lambda one: (-one["accuracy"], -one["count"]))
    if not ordered:
        return []
    if len(ordered) <= 2 * MOST_CLASSES:
        return [class_table(f"Accuracy by class{of}", ordered)]
    total = f"of {count(len(ordered))} classes"
    return [
        class_table(f"The {MOST_CLASSES} best {total}{of}", ordered[:MOST_CLASSES]),
        class_table(f"The {MOST_CLASSES} worst {total}{of}", ordered[-MOST_CLASSES:]),
    ]


def class_table(caption: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Classes with their accuracy and number of samples."""
    cells: list[list[Cell]] = [
        [str(one["class"]), Bar(percent(one["accuracy"]), one["accuracy"]), count(one["count"])] for one in rows
    ]
    return Table(caption, ["class", "accuracy", "samples"], cells)


def language_table(languages: Mapping[str, Mapping[str, float]], of: str) -> Table:
    """A row for each language."""
    metrics = list(dict.fromkeys(metric for values in languages.values() for metric in values))
    rows = [
        [name or "not said", *(metric_value(metric, values.get(metric)) for metric in metrics)]
        for name, values in languages.items()
    ]
    return Table(f"By language of the captions{of}", ["language", *map(metric_label, metrics)], rows)


def corruption_table(corruptions: Sequence[Mapping[str, Any]], of: str) -> Table:
    """A row for each corruption, a column for each severity."""
    severities = sorted({one["severity"] for one in corruptions})
    values = {(one["corruption"], one["severity"]): one["accuracy"] for one in corruptions}
    rows = [
        [str(kind), *(percent(values[kind, s]) if (kind, s) in values else "–" for s in severities)]
        for kind in dict.fromkeys(one["corruption"] for one in corruptions)
    ]
    return Table(f"Accuracy on corrupted images{of}", ["corruption", *(f"severity {s}" for s in severities)], rows)
