"""Write an export of a run, in one of the formats of ``ship/formats/``."""

from __future__ import annotations

import shutil
from pathlib import Path

from distill import plugins
from distill.errors import UserError
from distill.ship.config_file import Config
from distill.ship.contents import Shipped
from distill.ship.from_run import shipped_students

FORMATS = ("distill.ship.formats", "FORMAT", "distill.export_formats")  # where plugins.load finds them


def formats() -> list[str]:
    """The names of all export formats, sorted."""
    return list(plugins.found(*FORMATS))


def export(run: Path, out: Path, format: str = "distill", best: bool = False) -> Config:
    """Write a run's students, as of its newest checkpoint, to a new folder.

    Args:
        run: the run folder.
        out: the folder to create; it appears when it is complete.
        format: one of :func:`formats`.
        best: export the best checkpoint, instead of the newest one.

    Returns:
        The configuration of the exported towers.

    Raises:
        UserError: if ``run`` is not a run folder or has no checkpoint yet, ``out`` exists, or the format cannot hold
            the run's towers.
    """
    write = plugins.load("export format", format, *FORMATS, callable)
    if out.exists():
        raise UserError(f"{out} already exists.", "Choose another --out.")
    shipped: Shipped = shipped_students(run, best)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write(shipped, unfinished, out.name)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return shipped.config
