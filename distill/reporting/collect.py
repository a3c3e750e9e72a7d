"""Gathers the facts about runs for a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from distill.errors import UserError
from distill.reporting.curves import read_curves
from distill.reporting.facts import RunFacts, Speed
from distill.reporting.gallery import MOST_SAMPLES, make_gallery
from distill.reporting.ledger import read_ledger
from distill.reporting.provenance import provenance_rows, recipe_text
from distill.reporting.public import without_folders
from distill.reporting.results import Measured, differences_of, measure_run
from distill.reporting.speed import measure_speed
from distill.ship.image_text import ImageText
from distill.ship.load import load
from distill.ship.provenance import teacher_name
from distill.training.run import read_about, resolve_run

MOST_GALLERIES = 4  # runs of a comparison whose answers are shown
T = TypeVar("T")


def collect(
    runs: Sequence[Path], data: Sequence[str] = (), device: str | None = None, say: Callable[[str], object] = print
) -> list[RunFacts]:
    """The facts about some runs.

    Args:
        runs: the run folders.
        data: shards to evaluate on; default each run's ``data.eval``.
        device: default a GPU where there is one.
        say: prints a line about what is done.

    Raises:
        UserError: if one of them is not a run folder, or is damaged. What a sound run cannot give, such as results
            before its first checkpoint, is left out, and one of its notes says why.
    """
    names = distinct_names(runs)
    draws = (6, 3, 3) if len(runs) == 1 else (4, 2, 2)
    facts, measured = list[RunFacts](), dict[str, Measured]()
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        say(f"reading and measuring {name}")
        one, measured[name] = run_facts(run, name, data, device, draws if number < MOST_GALLERIES else None)
        facts.append(one)
    return [replace(one, differences=differences_of(one.name, measured)) for one in facts]


def distinct_names(runs: Sequence[Path]) -> list[str]:
    """The names of the folders; of those with one name, all but the first with a number."""
    found, seen = list[str](), Counter[str]()
    for run in runs:
        name = run.absolute().resolve().name
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def run_facts(
    run: Path, name: str, data: Sequence[str], device: str | None, draws: tuple[int, int, int] | None
) -> tuple[RunFacts, Measured]:
    """The facts about one run and its evaluations; ``draws`` is for :func:`make_gallery`, and None leaves it out."""
    resolved, about = resolve_run(run), read_about(run)
    recipe, notes = resolved.recipe, Notes(run)
    model = notes.attempt("Size, speed and examples are not shown", lambda: load(run, device))
    measured, gallery, speed = Measured(), None, None
    if model is not None:
        sound: ImageText = model
        speed = notes.attempt("Size and speed are not shown", lambda: measure_speed(sound, resolved))
        found = notes.attempt("Results and examples are not shown", lambda: measure_run(run, sound, data, device))
        measured = found or measured
        if model.text is None:
            notes.add("Search results and examples are not shown: the run has no text student.")
        elif measured.context is not None and draws is None:
            notes.add(f"Examples are shown of the first {MOST_GALLERIES} runs only.")
        elif measured.context is not None and draws is not None:
            context, count = measured.context, draws
            gallery = notes.attempt("Examples are not shown", lambda: make_gallery(context, count, MOST_SAMPLES))
    facts = RunFacts(
        name=name,
        objective=recipe.objective.name,
        teachers=tuple(teacher_name(table.name) for table in recipe.teacher),
        total_steps=int(about["steps"]),
        provenance=tuple(provenance_rows(recipe, run, about)),
        recipe=recipe_text(recipe),
        curves=read_curves(run / "metrics.jsonl"),
        ledger=read_ledger(run, about),
        speed=speed or Speed(),
        results=measured.results,
        gallery=gallery,
        notes=tuple(notes.found),
    )
    return facts, measured


class Notes:
    """Sentences on what a report does not show of a run, and why."""

    def __init__(self, run: Path) -> None:
        self.run, self.found = run, list[str]()

    def add(self, sentence: str) -> None:
        self.found.append(sentence)

    def attempt(self, otherwise: str, call: Callable[[], T]) -> T | None:
        """What a call returns; if it raises ``UserError``, None and a note that begins with ``otherwise``."""
        try:
            return call()
        except UserError as error:
            self.found.append(f"{otherwise}: {without_folders(str(error), self.run)}")
            return None
