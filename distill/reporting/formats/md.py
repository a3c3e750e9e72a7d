"""Markdown without pictures: tables, and of plots a table of their points."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from distill.reporting.blocks import (
    Bar,
    Block,
    Bullets,
    Cell,
    Code,
    Examples,
    Heading,
    Plot,
    Plots,
    Table,
    Text,
    Tiles,
)
from distill.reporting.drawing import describe, table_of
from distill.reporting.facts import Picture, Query, RunFacts
from distill.reporting.numbers import count
from distill.reporting.sections import document


def write(runs: Sequence[RunFacts]) -> str:
    """Write the report as Markdown, in which a picture is named by its caption."""
    report = document(runs)
    lines = [f"# {escape(report.title)}", "", escape(report.summary), ""]
    for section in report.sections:
        lines += [f"## {escape(section.title)}", ""]
        for block in section.blocks:
            lines += [*block_lines(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def escape(text: str) -> str:
    """A text that Markdown and HTML show as it is."""
    text = re.sub(r"[ \t\r\n]+", " ", text).strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", text)


def block_lines(block: Block) -> list[str]:
    """The lines of one block."""
    match block:
        case Text():
            return [escape(block.text)]
        case Heading():
            return [f"### {escape(block.text)}"]
        case Bullets():
            return [f"- {escape(item)}" for item in block.items]
        case Tiles():
            rows = [[tile.label, tile.value, tile.note] for tile in block.tiles]
            return table_lines(["number", "value", "note"], rows)
        case Table():
            return [escape(block.caption), "", *table_lines(block.columns, block.rows)]
        case Plots():
            return [line for plot in block.plots for line in plot_lines(plot)]
        case Examples():
            return [f"**{escape(block.title)}**", "", *(query_line(q, block.candidates) for q in block.queries)]
        case Code():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
            return [f"**{escape(block.title)}**", "", f"{fence}toml", *block.text.rstrip().split("\n"), fence]


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    """A table."""
    lines = ["| " + " | ".join(map(escape, columns)) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [escape(cell_text(cell)) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def cell_text(cell: Cell) -> str:
    """The text of a cell."""
    if not isinstance(cell, Bar):
        return cell
    return f"{cell.text} ({cell.detail})" if cell.detail else cell.text


def plot_lines(plot: Plot) -> list[str]:
    """A plot in words and as a table."""
    columns, rows = table_of(plot)
    return [f"**{escape(plot.title)}**", "", escape(describe(plot)), "", *table_lines(columns, rows), ""]


def query_line(query: Query, candidates: int) -> str:
    """A query with its answers, each marked as right or wrong."""
    answers = "; ".join(f"{'✓' if one.correct else '✗'} {named(one.item)}" for one in query.answers)
    return f"- {named(query.item)}: {answers} (best right answer: rank {count(query.rank)} of {count(candidates)})"


def named(item: Picture | str) -> str:
    """A picture by its caption, or a text."""
    return f"picture of “{escape(item.caption)}”" if isinstance(item, Picture) else f"“{escape(item)}”"


FORMAT = write
