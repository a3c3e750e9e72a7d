"""distill: train a small image–text model from a strong pretrained image encoder (Three Towers).

``distill.load("EXPORT")`` opens what ``distill export`` wrote. Everything else is the ``distill`` command.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.ship.image_text import ImageText

__version__ = "0.1.0"

SIBLINGS = ("teachers", "students", "losses", "launch")


def _check_siblings() -> None:
    """The four leaves have plain names: make sure a user's own ``losses.py`` has not taken one's place."""
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found != home / name / "__init__.py":
            raise ImportError(
                f"The package '{name}' that distill was installed with is hidden by {found or 'nothing at all'}. "
                f"Rename that file or start distill from another folder; expected {home / name}."
            )


_check_siblings()


def load(path: str | Path, device: str | None = None, alpha: float | None = None) -> ImageText:
    """Open an export, or a run at its newest checkpoint, for inference.

    Args:
        path: the folder that ``distill export`` or ``distill train`` wrote.
        device: such as ``"cuda"``; default a GPU where there is one.
        alpha: of a run that was trained without heads, the teacher's share in the embedding of an image.

    Raises:
        distill.errors.UserError: if the folder is neither, or ``alpha`` makes no sense for it.
    """
    from distill.ship.load import load as load_students

    return load_students(Path(path), device, alpha)


def __getattr__(name: str) -> Any:
    if name == "UserError":
        from distill.errors import UserError

        return UserError
    raise AttributeError(f"module 'distill' has no attribute '{name}'")
