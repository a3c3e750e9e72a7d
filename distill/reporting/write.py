"""Writes the report of runs in one of the formats of ``reporting/formats/``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from distill import plugins
from distill.errors import UserError
from distill.files import write_text
from distill.training.run import is_run

FORMATS = ("distill.reporting.formats", "FORMAT", "distill.report_formats")  # where plugins.load finds them
MOST_RUNS = 32  # in one report, so that its size stays bounded


def formats() -> list[str]:
    """The names of all report formats, sorted."""
    return list(plugins.found(*FORMATS))


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    format: str = "html",
    data: Sequence[str] = (),
    device: str | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Write the report on a run, or the comparison of several.

    Args:
        runs: the run folders.
        out: the file, which must not exist; default ``report.FORMAT`` in the folder of a single run.
        format: one of :func:`formats`.
        data: shards to evaluate on; default each run's ``data.eval``.
        device: default a GPU where there is one.
        say: prints a line about what is done.

    Returns:
        The file.

    Raises:
        UserError: if one of them is not a run folder, there are none or too many, or the file exists.
    """
    make = plugins.load("report format", format, *FORMATS, callable)
    if not 1 <= len(runs) <= MOST_RUNS:
        raise UserError(f"A report is on 1 to {MOST_RUNS} runs; got {len(runs)}.", "Name other runs.")
    for run in runs:
        if not is_run(run):
            raise UserError(f"{run} is not a run.", "Name a folder that 'distill train' wrote.")
    if out is None and len(runs) > 1:
        raise UserError("A comparison of runs belongs to none of their folders.", "Name a file with --out.")
    file = out if out is not None else runs[0] / f"report.{format}"
    if file.exists():
        raise UserError(f"{file} already exists.", "Choose another --out, or remove it.")
    from distill.reporting.collect import collect  # torch, timm and more

    text = make(collect(runs, data, device, say))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return file
