"""Load runs: their students, or a combination of the students and the first teacher."""

from __future__ import annotations

from pathlib import Path

from distill.errors import UserError
from distill.lookup import resolve
from distill.ship.build import build
from distill.ship.from_run import shipped_students, third_tower
from distill.ship.image_text import Blend, ImageText
from distill.training.run import is_run, read_recipe

__all__ = ["is_run", "load_run"]


def load_run(run: Path, device: str | None = None, alpha: float | None = None, best: bool = False) -> ImageText:
    """The students of a run at its newest checkpoint; see :func:`distill.ship.load.load`."""
    recipe = read_recipe(run)
    if alpha is not None:
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must be from 0 to 1; got {alpha}.", "Correct --alpha.")
        recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"alpha": alpha})})
        resolve(recipe)
    student = build(shipped_students(run, best), device)
    if not recipe.student.alpha:
        return student
    return Blend(student, build(third_tower(run, best), device), recipe.student.alpha)
