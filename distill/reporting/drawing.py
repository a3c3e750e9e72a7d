"""Plots as SVG, drawn here and not with a plotting library: their colours are CSS variables, so they follow the page
into dark mode and print; their text is text, so it can be read aloud and searched; and a plot takes a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from distill.reporting.blocks import Bar, Line, Plot
from distill.reporting.numbers import NARROW, percent, short

WIDTH, HEIGHT = 460, 270  # units of the drawing; at its usual size about one pixel each
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42  # margins around the area of the lines
COLOURS = 8  # there are so many classes of lines, c0 to c7, which differ in colour and dashes
MOST_MARKERS = 24  # points of a line above which they get no circles
TABLE_ROWS = 20  # points of each line in the table behind a plot


class Scale:
    """Maps values of an axis to the drawing.

    Args:
        low, high: the ends of the axis.
        start, end: their places.
        doubling: whether the axis is logarithmic.
    """

    def __init__(self, low: float, high: float, start: float, end: float, doubling: bool = False) -> None:
        self.convert = (lambda value: math.log2(value)) if doubling else (lambda value: float(value))
        self.low, self.high, self.start, self.end = self.convert(low), self.convert(high), start, end

    def __call__(self, value: float) -> float:
        share = (self.convert(value) - self.low) / ((self.high - self.low) or 1.0)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def draw(plot: Plot, name: str) -> Markup:
    """A plot as an SVG element.

    Args:
        plot: what to draw.
        name: of the element, which no other one of the page has.
    """
    x_ticks, y_ticks = ticks_of_x(plot), ticks_of_y(plot)
    xs = [point[0] for line in plot.lines for point in line.points]
    low, high = (0.0, 1.0) if plot.whole else (min(xs), max(xs))
    x = Scale(low, high, LEFT, WIDTH - RIGHT, plot.doubling)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d" class="plot">').format(
            WIDTH, HEIGHT, name, name
        )
    ]
    parts.append(
        Markup('<title id="{}-t">{}</title><desc id="{}-d">{}</desc>').format(name, plot.title, name, describe(plot))
    )
    parts += [grid_line(y(tick), tick_label(tick, y_ticks, plot.percent)) for tick in y_ticks]
    parts += [x_tick(x(tick), short(tick) if plot.doubling else tick_label(tick, x_ticks)) for tick in x_ticks]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, plot.x, "middle"))
    number = 0
    for line in plot.lines:
        parts.append(draw_line(line, x, y, "guide" if line.guide else f"c{number % COLOURS}"))
        number += not line.guide
    return Markup("").join([*parts, Markup("</svg>")])


def draw_line(line: Line, x: Scale, y: Scale, kind: str) -> Markup:
    """A line with its band and, if its points are few, a circle at each."""
    drawn = Markup("")
    if line.band:
        upper = [(x(p[0]), y(b[1])) for p, b in zip(line.points, line.band, strict=True)]
        lower = [(x(p[0]), y(b[0])) for p, b in zip(line.points, line.band, strict=True)]
        drawn += Markup('<path class="band {}" d="{}Z"/>').format(kind, path([*upper, *lower[::-1]]))
    places = [(x(p[0]), y(p[1])) for p in line.points]
    drawn += Markup('<path class="line {}" d="{}"/>').format(kind, path(places))
    if len(places) <= MOST_MARKERS and not line.guide:
        for place in places:
            drawn += Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(kind, *place)
    return drawn


def path(places: Sequence[tuple[float, float]]) -> str:
    """The ``d`` of a path through places."""
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)


def grid_line(at: float, label: str) -> Markup:
    """A horizontal line with its label at the left."""
    line = Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, at, WIDTH - RIGHT)
    return line + text(LEFT - 7, at + 4, label, "end")


def x_tick(at: float, label: str) -> Markup:
    """A tick of the x axis with its label."""
    base = HEIGHT - BOTTOM
    return Markup('<path class="tick" d="M{:.1f} {}v4"/>').format(at, base) + text(at, base + 17, label, "middle")


def text(x: float, y: float, content: str, anchor: str) -> Markup:
    """A text of the drawing."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, content)


def ticks_of_x(plot: Plot) -> list[float]:
    """Where the x axis has ticks: at round numbers, or at the points themselves of a logarithmic axis."""
    xs = sorted({point[0] for line in plot.lines for point in line.points})
    if plot.doubling:
        return xs[:: 1 + (len(xs) - 1) // 8]
    low, high = (0.0, 1.0) if plot.whole else (xs[0], xs[-1])
    return [tick for tick in round_numbers(low, high, factors=(1, 2, 5, 10)) if low <= tick <= high]


def ticks_of_y(plot: Plot) -> list[float]:
    """The round numbers that enclose all points; bands may reach a quarter of the range beyond them."""
    if plot.whole:
        return round_numbers(0.0, 1.0)
    values = [point[1] for line in plot.lines for point in line.points]
    low, high = min(values), max(values)
    beyond = (high - low) / 4
    ends = [end for line in plot.lines for band in line.band for end in band]
    low, high = max(low - beyond, min([low, *ends])), min(high + beyond, max([high, *ends]))
    if low >= 0 and (plot.percent or low < high / 3):
        low = 0.0
    return round_numbers(low, high)


def round_numbers(
    low: float, high: float, steps: int = 5, factors: Sequence[float] = (1, 2, 2.5, 5, 10)
) -> list[float]:
    """Round numbers in about ``steps`` steps, the first at most ``low`` and the last at least ``high``.

    Args:
        low, high: the range, which may be empty.
        steps: about how many.
        factors: what a step may be, times a power of ten.
    """
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = abs(high) / 10 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / steps
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in factors if size * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def tick_label(tick: float, ticks: Sequence[float], in_percent: bool = False) -> str:
    """The label of one of an axis' ticks, with as many digits as its neighbours need."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(tick) or 1.0
    if in_percent:
        return percent(tick, 1 if step < 0.00999 else 0)
    if ticks[-1] >= 10_000:
        return f"{tick / 1000:g}{NARROW}k" if tick else "0"
    if 0 < step < 1e-4:
        return short(tick)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if f"{step:.1e}"[0:3] == "2.5" else 0))
    return f"{tick:.{digits}f}".replace("-", "−")


def describe(plot: Plot) -> str:
    """A sentence for each line of a plot: where it begins and ends, and its lowest and highest points."""

    def value(number: float) -> str:
        return percent(number) if plot.percent else short(number)

    sentences = []
    for line in plot.lines:
        if line.guide:
            continue
        first, last = line.points[0], line.points[-1]
        low, high = min(p[1] for p in line.points), max(p[1] for p in line.points)
        sentences.append(
            f"{line.name}: {value(first[1])} at {plot.x} {short(first[0])}, {value(last[1])} at {short(last[0])}; "
            f"between {value(low)} and {value(high)}."
        )
    return " ".join(sentences)


def table_of(plot: Plot) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of the table behind a plot, at evenly spaced points."""
    lines = [line for line in plot.lines if not line.guide]

    def value(number: float) -> str:
        return percent(number) if plot.percent else short(number)

    if all([p[0] for p in line.points] == [p[0] for p in lines[0].points] for line in lines):
        rows = [
            [short(lines[0].points[k][0]), *(value(line.points[k][1]) for line in lines)]
            for k in spaced(len(lines[0].points), TABLE_ROWS)
        ]
        return [plot.x, *(line.name for line in lines)], rows
    most = max(3, 6 * TABLE_ROWS // len(lines))
    return ["line", plot.x, plot.y or "value"], [
        [line.name, short(line.points[k][0]), value(line.points[k][1])]
        for line in lines
        for k in spaced(len(line.points), min(TABLE_ROWS, most))
    ]


def spaced(n: int, most: int) -> list[int]:
    """At most so many evenly spaced numbers below n, the first and the last among them."""
    if n <= most:
        return list(range(n))
    return [round(k * (n - 1) / (most - 1)) for k in range(most)]


def draw_bar(bar: Bar) -> Markup:
    """The bar of a cell, with its interval and chance. It repeats what its row says, so it is hidden from readers."""
    width, height = 120, 14

    def x(share: float) -> float:
        return width * min(1.0, max(0.0, share / bar.scale))

    drawn = Markup('<svg class="bar" viewBox="0 0 {} {}" aria-hidden="true">').format(width, height)
    drawn += Markup('<rect class="track" x="0" y="3" width="{}" height="8" rx="2"/>').format(width)
    drawn += Markup('<rect class="fill" x="0" y="3" width="{:.1f}" height="8" rx="2"/>').format(x(bar.value))
    if bar.interval:
        low, high = x(bar.interval[0]), x(bar.interval[1])
        drawn += Markup('<path class="whisker" d="M{:.1f} 7H{:.1f}M{:.1f} 4v6M{:.1f} 4v6"/>').format(
            low, high, low, high
        )
    if bar.chance is not None:
        drawn += Markup('<path class="chance" d="M{:.1f} 0v14"/>').format(x(bar.chance))
    return drawn + Markup("</svg>")


def swatch(number: int, guide: bool) -> Markup:
    """A piece of a plot's line for its legend."""
    kind = "guide" if guide else f"c{number % COLOURS}"
    return Markup(
        '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path class="line {}" d="M0 4H28"/></svg>'
    ).format(escape(kind))
