"""What every evaluation has in common: its options, what it is given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.errors import Bad
from distill.evals.usable import usable_samples
from distill.ship.image_text import ImageText


def as_strings(value: Any) -> Any:
    """A string or path as a list of one; paths as strings."""
    values = (value,) if isinstance(value, str | Path) else value
    return [str(v) if isinstance(v, Path) else v for v in values] if isinstance(values, list | tuple) else values


Strings = Annotated[tuple[str, ...], BeforeValidator(as_strings)]  # an option that is a list of strings


@dataclass(frozen=True)
class Context:
    """What an evaluation may know besides its options.

    Attributes:
        captions: how captions were read from samples when the model was trained.
        workers: loader processes.
        skip_bad: whether :meth:`open` leaves out samples that cannot be used, instead of raising.
        bad: the records of the samples that :meth:`open` has left out.
    """

    captions: Captions
    workers: int
    skip_bad: bool = False
    bad: list[Bad] = field(default_factory=list)

    def open(self, specs: Sequence[str], captions: Captions | None = None) -> Shards:
        """Open shards for an evaluation.

        Args:
            specs: names of shards.
            captions: how captions are read; None if the evaluation reads none.

        Raises:
            UserError: if they cannot be read, an archive or a sample is damaged, unless ``skip_bad``, or no sample is
                left.
        """
        shards = Shards.open(specs, strict=not self.skip_bad)
        return usable_samples(shards, captions, self.bad) if self.skip_bad else shards


class Evaluation(BaseModel, ABC):
    """One evaluation; the fields of a subclass are its options, which ``--set`` sets.

    A subclass is found by its name: as ``EVALUATION`` of the module ``distill/evals/NAME.py``, or by an entry point
    NAME of the group ``distill.evaluations`` of another installed package.

    Attributes:
        data: the shards to measure on; for a run, by default its recipe's ``data.eval``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Strings = ()

    @abstractmethod
    def evaluate(self, model: ImageText, context: Context) -> dict[str, Any]:
        """Measure a model.

        Returns:
            What JSON can hold, "task" and "metrics" among it.

        Raises:
            UserError: if the data cannot be read, or are not enough for this evaluation.
        """
