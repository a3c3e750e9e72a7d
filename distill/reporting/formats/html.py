"""One HTML file with everything in it: styles, plots and pictures; no script, no network, no fonts."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import count

from markupsafe import Markup

from distill.reporting.drawing import draw, draw_bar, swatch, table_of
from distill.reporting.facts import Picture, RunFacts
from distill.reporting.sections import document

LONG_WORD = re.compile(r"\S{24,}")


def write(runs: Sequence[RunFacts]) -> str:
    """The text of an HTML file; everything that comes from runs and data is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("distill.reporting") / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = count(1)
    environment.globals |= {
        "draw": draw,
        "draw_bar": draw_bar,
        "swatch": swatch,
        "table_of": table_of,
        "next_name": lambda: f"n{next(numbers)}",
        "kind_of": lambda thing: type(thing).__name__.lower(),
        "data_uri": data_uri,
        "breakable": breakable,
    }
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html").render(document=document(runs), style=style).strip() + "\n"


def breakable(text: str) -> Markup:
    """A text that may be broken within long words: after 16 characters, and after a slash or underscore."""
    parts = re.findall(r"[^/_]{1,16}[/_]?|[/_]", text) if LONG_WORD.search(text) else [text]
    return Markup("<wbr>").join(parts)


def data_uri(picture: Picture) -> str:
    """A thumbnail as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode('ascii')}"


FORMAT = write
