"""A study as tables in the form of Table E.4 of arXiv 2305.16999: in Markdown, and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import TextWrapper
from typing import Any

from distill.evals.tables import aligned, number
from distill.studies.runs import COMPLETE
from distill.wording import counted

MARK = "*"
WIDTH = 100  # characters a line on a terminal
HEADER = ("", "difference", "std", "two std errors", "", "value", "std", "seeds")
Tree = dict[str, Any]


def rows_of(result: Tree, reference: str, seeds: int) -> list[list[str]]:
    """The header and a row for each variant, of one metric."""
    rows = [list(HEADER)]
    for name, own in result["variants"].items():
        difference, value = own["difference"], own["value"]
        cells = [
            number(difference[key], sign) for key, sign in (("mean", "+"), ("std", ""), ("two_standard_errors", ""))
        ]
        cells = ["reference", "", ""] if name == reference else cells
        mark = MARK if difference["excludes_zero"] else ""
        rows.append([name, *cells, mark, number(value["mean"]), number(value["std"]), f"{value['count']} of {seeds}"])
    return rows


def title_of(result: Tree) -> str:
    """A metric, which direction is the better one, and the value of a model that guesses."""
    better = "higher" if result["higher_is_better"] else "lower"
    chance = f"; chance {number(result['chance'])}" if result["chance"] is not None else ""
    return f"{result['metric']} ({better} is better{chance})"


def notes(summary: Tree) -> list[str]:
    """Sentences that say how the tables are to be read."""
    seeds = summary["seeds"]
    lines = [
        f"difference: value minus that of '{summary['reference']}' with the same seed, the mean over seeds; std: the "
        "standard deviation over seeds (n − 1); two std errors: 2 · std / √n for n seeds."
    ]
    if len(seeds) == 1:
        lines.append("There is one seed, so there is no estimate of the error, and no difference is marked.")
        return lines + summary["remarks"]
    lines.append(
        f"{MARK} The difference is larger than two standard errors. By chance alone, if differences are normally "
        "distributed, that happens in 30 of 100 cases with 2 seeds, 18 with 3, 12 with 5, 8 with 10, 5 with many; "
        "and the more variants and metrics, the more cases there are."
    )
    return lines + summary["remarks"]


def as_markdown(summary: Tree) -> str:
    """The content of ``study.md``."""
    reference, seeds = summary["reference"], summary["seeds"]
    lines = [f"# Study of {summary['recipe']}", ""]
    lines += [
        f"{counted(len(summary['variants']), 'variant')}, the reference is '{reference}'; "
        f"{counted(len(seeds), 'seed')}: {', '.join(map(str, seeds))}.",
        "",
    ]
    lines += markdown_table([["variant", "settings", "complete runs"], *settings_rows(summary)])
    for (task, data), results in groupby(summary["results"], lambda one: (one["task"], one["data"])):
        lines += [f"## {task}", "", f"On {data}.", ""]
        for result in results:
            lines += [f"### {title_of(result)}", ""]
            lines += markdown_table([["variant", *HEADER[1:]], *rows_of(result, reference, len(seeds))[1:]])
    lines += ["## How to read it", "", *(f"- {escaped(line)}" for line in notes(summary)), ""]
    if summary["failed"]:
        lines += ["## Failed", ""]
        lines += markdown_table([["variant", "seed", "message"], *failed_rows(summary)])
    return "\n".join(lines)


def as_text(summary: Tree, metrics: Sequence[str] = ()) -> str:
    """The tables for a terminal.

    Args:
        summary: see :func:`distill.studies.summary.summarise`.
        metrics: which; none means all.
    """
    reference, seeds = summary["reference"], summary["seeds"]
    shown = [one for one in summary["results"] if not metrics or one["metric"] in metrics]
    parts = [
        f"{one['task']} on {one['data']}: {title_of(one)}\n{aligned(rows_of(one, reference, len(seeds)))}\n"
        for one in shown
    ]
    parts += map(TextWrapper(WIDTH).fill, notes(summary) if shown else ["Nothing has been measured yet."])
    if summary["failed"]:
        parts.append("\nFailed:")
        wrapper = TextWrapper(WIDTH, "  ", "    ", break_long_words=False, break_on_hyphens=False)
        parts += [
            wrapper.fill(f"{variant}, seed {seed}: {message}") for variant, seed, message in failed_rows(summary)
        ]
    return "\n".join(parts)


def settings_rows(summary: Tree) -> list[list[str]]:
    """A row for each variant: its settings, and how many of its runs are complete."""
    rows = []
    for name, one in summary["variants"].items():
        complete = sum(state == COMPLETE for state in one["runs"].values())
        rows.append([name, "; ".join(f"`{text}`" for text in one["settings"]), f"{complete} of {len(one['runs'])}"])
    return rows


def failed_rows(summary: Tree) -> list[list[str]]:
    """A row for each run whose last attempt failed."""
    return [[one["variant"], str(one["seed"]), one["message"]] for one in summary["failed"]]


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A header and rows as the lines of a Markdown table, with an empty line behind."""
    lines = [f"| {' | '.join(map(escaped, cells))} |" for cells in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
    return [*lines, ""]


def escaped(text: str) -> str:
    """Text in which nothing is markup of Markdown but backquotes."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
