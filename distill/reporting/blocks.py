"""The parts of a report, whatever file format it is written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from distill.reporting.facts import Query


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Tile:
    """One number that matters.

    Attributes:
        value: with its unit.
        label: what it is.
        note: what to compare it with; "" for nothing.
    """

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """The numbers at the beginning of a report."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Bar:
    """A cell of a table that also draws a share.

    Attributes:
        text: the number as text.
        value: the share.
        scale: the share at which the bar is full.
        interval: (low, high) of it; None if there is none.
        chance: the share that guessing gives; None if it is not known.
        detail: a second line under the number; "" for none.
    """

    text: str
    value: float
    scale: float = 1.0
    interval: tuple[float, float] | None = None
    chance: float | None = None
    detail: str = ""


Cell = str | Bar


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        columns: names.
        rows: cells, as many as columns. The first cell of a row is its heading.
        text_columns: the numbers of the columns, besides the first, that hold words instead of numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        name: for the legend.
        points: (x, y), by rising x.
        band: (low, high) around each point; empty for none.
        guide: whether it is no measurement but a line to compare with.
    """

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    guide: bool = False


@dataclass(frozen=True)
class Plot:
    """Lines over a common x axis.

    Attributes:
        title: what it shows.
        x, y: names of the axes.
        lines: at least one, each with at least one point.
        percent: whether y values are shares, shown in percent.
        whole: whether both axes run from 0 to 1.
        doubling: whether x is drawn on a logarithmic scale, with a tick at each point.
        note: a sentence on how to read it; "" for none.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    percent: bool = False
    whole: bool = False
    doubling: bool = False
    note: str = ""


@dataclass(frozen=True)
class Plots:
    """Plots that stand side by side where there is space."""

    plots: Sequence[Plot]


@dataclass(frozen=True)
class Examples:
    """Queries with their answers.

    Attributes:
        title: how they were chosen, and in which direction.
        queries: all answered by pictures, or all by texts.
        candidates: among how many was searched.
        nested: whether they stand below a :class:`Heading`.
    """

    title: str
    queries: Sequence[Query]
    candidates: int
    nested: bool = False


@dataclass(frozen=True)
class Code:
    """A text in a fixed-width font, folded under its title."""

    title: str
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


Block = Text | Bullets | Tiles | Table | Plots | Examples | Code | Heading


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        title: its heading.
        anchor: its name in links.
        blocks: its content.
    """

    title: str
    anchor: str
    blocks: Sequence[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: such as "first".
        summary: a sentence under the title.
        sections: without empty ones.
    """

    title: str
    summary: str
    sections: Sequence[Section]
