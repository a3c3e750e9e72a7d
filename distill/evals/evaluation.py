"""What every evaluation has in common: its options, what it is given, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from distill.data.captions import Captions
from distill.ship.image_text import ImageText


@dataclass(frozen=True)
class Context:
    """What an evaluation may know besides its options.

    Attributes:
        captions: how captions were read from samples when the model was trained.
        workers: loader processes.
    """

    captions: Captions
    workers: int


class Evaluation(BaseModel):
    """One evaluation; the fields of a subclass are its options, which ``--set`` sets.

    A subclass is found by its name: as ``EVALUATION`` of the module ``distill/evals/NAME.py``, or by an entry point
    NAME of the group ``distill.evaluations`` of another installed package.

    Attributes:
        data: the shards to measure on; for a run, by default its recipe's ``data.eval``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: tuple[str, ...] = ()

    @field_validator("data", mode="before")
    @classmethod
    def one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def evaluate(self, model: ImageText, context: Context) -> dict[str, Any]:
        """Measure a model.

        Returns:
            What JSON can hold, "task" and "metrics" among it.

        Raises:
            UserError: if the data cannot be read, or are not enough for this evaluation.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it measures.")
