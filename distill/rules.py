"""The versions of rules that a run keeps from its start to its end, whatever version of distill continues it.

The version of the sample order is in the run's table of shards, see :mod:`distill.data.order`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rules:
    """Versions of rules; the defaults are those of new runs.

    Attributes:
        views: of :class:`distill.data.views.Views`.
        statistics: of the input of an image student with initial weights. 1: with ``init = "teacher"`` those of the
            teacher, else those of the architecture; 2: those that the weights were trained with.
        captions: 1: text teachers have no cache; 2: they have one, as image teachers do.
    """

    views: int = 2
    statistics: int = 2
    captions: int = 2

    @classmethod
    def of_run(cls, about: Mapping[str, Any]) -> Rules:
        """Those of a run.

        Args:
            about: the content of its ``run.json``; in that of runs of version 0.1.0, with the first rules, there is no
                entry "rules".
        """
        return cls(**({"statistics": 1, "captions": 1} | about.get("rules", {"views": 1})))


NEW_RUNS = Rules()
