"""The versions of the rules for the order of samples and for views: a run keeps those that it was started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rules:
    """Versions of rules; the defaults are those of new runs.

    Attributes:
        order: of :class:`distill.data.order.Order`.
        views: of :class:`distill.data.views.Views`.
    """

    order: int = 1
    views: int = 2

    @classmethod
    def of_run(cls, about: Mapping[str, Any]) -> Rules:
        """Those of a run.

        Args:
            about: the content of its ``run.json``; in that of runs of version 0.1.0, with the first rules, there is no
                entry "rules".
        """
        return cls(**about.get("rules", {"order": 1, "views": 1}))


NEW_RUNS = Rules()
