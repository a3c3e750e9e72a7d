"""Write an export of a run, in one of the formats of ``ship/formats/``."""

from __future__ import annotations

import shutil
from pathlib import Path

from distill import plugins
from distill.errors import UserError
from distill.ship.config_file import Config
from distill.ship.from_run import shipped_students
from distill.ship.shipped import Shipped

FORMATS = {"package": "distill.ship.formats", "attribute": "FORMAT", "group": "distill.export_formats"}


def formats() -> list[str]:
    """The formats that exist, sorted."""
    return list(plugins.found(**FORMATS))


def export(run: Path, out: Path, format: str = "distill") -> Config:
    """Write a run's students, as of its newest checkpoint, to a new folder.

    Args:
        run: the run folder.
        out: the folder to be made; it appears when it is complete.
        format: see :func:`formats`.

    Raises:
        UserError: if ``run`` is no run or has no checkpoint yet, ``out`` exists, or the format cannot hold what the
            run ships.
    """
    write = plugins.load("export format", format, **FORMATS)
    if out.exists():
        raise UserError(f"{out} already exists.", "Choose another --out.")
    shipped: Shipped = shipped_students(run)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write(shipped, unfinished, out.name)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return shipped.config
