"""distill: train a small image–text model from a strong pretrained image encoder (Three Towers).

``distill.train``, ``evaluate``, ``study``, ``report``, ``export``, ``load``, ``pack`` and ``embed_teachers`` do what
the ``distill`` command does; see their docstrings.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from distill.api import Training, embed_teachers, evaluate, export, load, pack, report, train
from distill.studies.public import Study, study

__all__ = ["Study", "Training", "UserError"]
__all__ += ["embed_teachers", "evaluate", "export", "load", "pack", "report", "study", "train"]
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


def __getattr__(name: str) -> Any:
    if name == "UserError":
        from distill.errors import UserError

        return UserError
    raise AttributeError(f"module 'distill' has no attribute '{name}'")
