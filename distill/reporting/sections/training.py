"""Training curves: loss terms, temperature, learning rate, speed, and evaluations while training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from distill.reporting.blocks import Block, Heading, Line, Plot, Plots, Text
from distill.reporting.drawing import spaced
from distill.reporting.facts import RunFacts, Series
from distill.reporting.numbers import is_share, metric_label

OTHERS = ("lr", "examples_per_s")  # what is logged besides loss terms and temperatures
MOST_LINES = 6  # of one run in a plot
MOST_POINTS = 4000  # of all lines of a plot together, so that a report stays small
NOTE = "Where steps are joined, lines are their means, and bands reach from the smallest to the largest value."


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """The curves of one run, or those of several over each other."""
    several = len(runs) > 1
    logged = names(run.curves.logged for run in runs)
    terms = [name for name in logged if name not in OTHERS and not is_tau(name)]
    taus = [name for name in logged if is_tau(name)]
    plots = []
    groups = [[name] for name in (*terms, *taus)] if several else [terms, taus]
    for group in (*groups, *([name] for name in OTHERS if name in logged)):
        plots += plots_of(group, {run.name: run.curves.logged for run in runs}, several)
    found: list[Block] = [Plots(plots)] if plots else []
    if any(line.band for plot in plots for line in plot.lines):
        found = [Text(NOTE), *found]
    evaluated = names(run.curves.evaluated for run in runs)
    tasks = dict.fromkeys(name.partition("/")[0] for name in evaluated)
    plots = []
    for task in tasks:
        own = [name for name in evaluated if name.partition("/")[0] == task]
        curves = {run.name: run.curves.evaluated for run in runs}
        for group in [[name] for name in own] if several else chunks(own):
            plots += plots_of(group, curves, several, task)
    return [*found, Heading("Evaluations while training"), Plots(plots)] if plots else found


def names(curves: Iterable[Mapping[str, Series]]) -> list[str]:
    """All names of curves, in the order in which they occur."""
    return list(dict.fromkeys(name for one in curves for name in one))


def is_tau(name: str) -> bool:
    """Whether a curve is that of a temperature."""
    return name == "tau" or name.startswith("tau_")


def chunks(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that fit in a plot; shares apart from other numbers."""
    shares = [name for name in names if is_share(metric(name))]
    others = [name for name in names if name not in shares]
    return [group[i : i + MOST_LINES] for group in (shares, others) for i in range(0, len(group), MOST_LINES)]


def metric(name: str) -> str:
    """The metric of a curve that is called TASK/METRIC."""
    return name.rpartition("/")[2]


def plots_of(
    group: Sequence[str], curves: Mapping[str, Mapping[str, Series]], several: bool, task: str = ""
) -> list[Plot]:
    """A plot of some curves: of one run with a line for each curve, of several with a line for each run."""
    chosen = [(run, name, own[name]) for run, own in curves.items() for name in group if name in own]
    lines = [
        line(run if several else metric_label(metric(name)), series, MOST_POINTS // len(chosen))
        for run, name, series in chosen
    ]
    if not lines:
        return []
    label = metric_label(metric(group[0]))
    title = (f"{task}: {label}" if task else label) if several or len(group) == 1 else task or "loss terms"
    shares = bool(task) and all(is_share(metric(name)) for name in group)
    return [Plot(upper_first(title), "step", "" if len(group) > 1 else label, lines, percent=shares)]


def upper_first(text: str) -> str:
    """A text whose first letter is a capital, unless it is a symbol such as f_h."""
    return text if "↔" in text else text[:1].upper() + text[1:]


def line(name: str, series: Series, most: int) -> Line:
    """A curve as a line of at most so many points, with a band if its groups hold several values."""
    grouped = max(series.counts) > 1
    kept = spaced(len(series.steps), most)
    band = [(series.lows[k], series.highs[k]) for k in kept] if grouped else []
    return Line(name, [(series.steps[k], series.means[k]) for k in kept], band)
