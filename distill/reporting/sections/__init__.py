"""Turns the facts about runs into the sections of a report: one module each."""

from __future__ import annotations

from collections.abc import Sequence

from distill.reporting.blocks import Document, Section
from distill.reporting.facts import RunFacts
from distill.reporting.numbers import count
from distill.reporting.sections import data, examples, origin, overview, results, students, training


def document(runs: Sequence[RunFacts]) -> Document:
    """The report on one run, or the comparison of several."""
    sections = [
        Section("Overview", "overview", overview.blocks(runs)),
        Section("Results", "results", results.blocks(runs)),
        Section("Students and teacher", "students", students.blocks(runs)),
        Section("Examples", "examples", examples.blocks(runs)),
        Section("Training", "training", training.blocks(runs)),
        Section("Data", "data", data.blocks(runs)),
        Section("Recipe and origin", "origin", origin.blocks(runs)),
    ]
    shown = [section for section in sections if section.blocks]
    if len(runs) > 1:
        return Document(f"Comparison of {len(runs)} runs", ", ".join(run.name for run in runs), shown)
    run = runs[0]
    teachers = f"taught by {', '.join(run.teachers)}" if run.teachers else "without a teacher"
    summary = (
        f"Objective {run.objective}, {teachers}; {count(run.curves.last_step)} of {count(run.total_steps)} steps on "
        f"{count(run.ledger.samples)} samples."
    )
    return Document(run.name, summary, shown)
