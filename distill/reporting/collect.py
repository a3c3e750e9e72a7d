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
from distill.reporting.results import differences_of, results_of
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
    facts = []
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        say(f"reading and measuring {name}")
        facts.append(run_facts(run, name, data, device, draws if number < MOST_GALLERIES else None))
    results = {one.name: one.results for one in facts}
    return [replace(one, differences=differences_of(one.name, results)) for one in facts]


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
) -> RunFacts:
    """The facts about one run; ``draws`` is for the gallery, see :func:`make_gallery`, and None leaves it out."""
    resolved, about = resolve_run(run), read_about(run)
    recipe, notes = resolved.recipe, Notes(run)
    model = notes.attempt("Size, speed and examples are not shown", lambda: load(run, device))
    results, gallery, speed = [], None, None
    if model is not None:
        sound: ImageText = model
        specs = list(data) or list(recipe.data.eval)
        speed = notes.attempt("Size and speed are not shown", lambda: measure_speed(sound, resolved))
        if model.text is None:
            notes.add("Search results and examples are not shown: the run has no text student.")
        elif not specs:
            notes.add("Results and examples are not shown: the recipe names no data.eval, and --data was not given.")
        else:
            results = notes.attempt("Results are not shown", lambda: results_of(run, data, device)) or []
            if draws is None:
                notes.add(f"Examples are shown of the first {MOST_GALLERIES} runs only.")
            else:
                count = draws
                gallery = notes.attempt(
                    "Examples are not shown", lambda: make_gallery(sound, specs, count, MOST_SAMPLES)
                )
    return RunFacts(
        name=name,
        objective=recipe.objective.name,
        teachers=tuple(teacher_name(table.name) for table in recipe.teacher),
        total_steps=int(about["steps"]),
        provenance=tuple(provenance_rows(recipe, run, about)),
        recipe=recipe_text(recipe),
        curves=read_curves(run / "metrics.jsonl"),
        ledger=read_ledger(run, about),
        speed=speed or Speed(),
        results=results,
        gallery=gallery,
        notes=tuple(notes.found),
    )


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
