"""The options that say what an evaluation measures on, the same for all tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def as_strings(value: Any) -> Any:
    """A string or path as a list of one; paths as strings."""
    values = (value,) if isinstance(value, str | Path) else value
    return [str(v) if isinstance(v, Path) else v for v in values] if isinstance(values, list | tuple) else values


Strings = Annotated[tuple[str, ...], BeforeValidator(as_strings)]  # an option that is a list of strings


class DataOptions(BaseModel):
    """What is measured on.

    Attributes:
        data: shards, a folder in CLIP_benchmark's layout, a folder of pictures or a table of captions; for a run, by
            default its recipe's ``data.eval``. Where it is divided, its test split.
        train: what classifiers learn from; by default the train split of ``data``, or for a run its ``data.train``.
        label: the key of a sample's JSON, or the column, that holds its class; by default ``label``, ``class`` or
            ``KEY.cls``.
        classes: a file with the names of the classes: a name a line, or JSON, where a class may have several names.
        templates: a file with a text a line, {} standing for the class's name; or ``plain``, "a photo of a {}.",
            or ``name``, the name alone.
        languages: only captions of these, and those without one; none means those that the model was trained with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Strings = ()
    train: Strings = ()
    label: str = ""
    classes: str = ""
    templates: str = ""
    languages: Strings = ()
