"""Commands whose help ends with a list that is made from what is installed."""

from __future__ import annotations

import importlib
from typing import Any

import click


class ListingCommand(click.Command):
    """A command with one line more at the end of its help.

    Args:
        title: of the line, such as "Tasks".
        names: "module:function" that gives the names; imported only when help is shown.
    """

    def __init__(self, *args: Any, title: str, names: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title, self.names = title, names

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        module, function = self.names.split(":")
        names = getattr(importlib.import_module(module), function)()
        formatter.write_paragraph()
        formatter.write_text(f"{self.title}: {', '.join(names)}.")
