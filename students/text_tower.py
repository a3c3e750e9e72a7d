"""The base class of text towers and that of their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from students import tokenizer
from students.tower import Tower


class TextOptions(BaseModel):
    """The options that every text tower has; each architecture adds its own.

    Attributes:
        context: number of tokens of a text; longer texts are cut off, shorter ones padded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int = Field(default=16, gt=0)


class OptionsLike(TextOptions):
    """The options of a text tower that can be built like one that another tool has saved.

    Attributes:
        like: what the tower is built like: a folder that another tool has saved, or the name of a text teacher's card
            such as "packaged/all_minilm_l6_v2". What ``init`` names if it is not set.
    """

    like: str = ""


class TextTower(Tower):
    """A network from token ids to embeddings. A subclass is built as ``Tower(options, vocab, width)``.

    Attributes:
        Options: the class of its options, which are set in the recipe's ``student.text``.
        Tokenizer: the class of its tokenizer.
        TAKEN: the options that :meth:`options_of` gives: those that follow from what a tower is built like.

    A tower that can be built like, or start from, what another tool has saved overrides :meth:`options_of`,
    :meth:`tokenizer_of` and :meth:`~students.tower.Tower.read`.
    """

    Options: ClassVar[type[TextOptions]]
    Tokenizer: ClassVar[type[tokenizer.Tokenizer]]
    TAKEN: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: TextOptions, vocab: int, width: int) -> None:
        """Build a tower with random weights, for ``vocab`` token ids and embeddings of width ``width``."""
        super().__init__()

    @classmethod
    def describe(cls, options: TextOptions) -> str:
        """A short description of a tower with these options, for the model card."""
        return cls.__name__

    @classmethod
    def options_of(cls, path: Path | None) -> dict[str, Any]:
        """The options, those in ``TAKEN``, of the tower that another tool has saved at a path.

        Args:
            path: a folder or file; None if the recipe names none.

        Raises:
            ValueError: if there is no such tower, or the tower needs a path.
        """
        return {}

    @classmethod
    def tokenizer_of(cls, path: Path | None, context: int) -> tokenizer.Tokenizer | None:
        """The tokenizer that comes with what another tool has saved at a path, or with the architecture itself.

        Returns:
            None if it is trained from captions.

        Raises:
            ValueError: if there is none, or it does not fit the tower.
        """
        return None

    @classmethod
    def open_clip_config(cls, options: TextOptions, vocab: int) -> dict[str, Any]:
        """The ``text_cfg`` from which open_clip builds the same tower, with the same names in its state dict.

        Raises:
            ValueError: if open_clip has no such tower; the message says what it lacks.
        """
        raise ValueError(f"open_clip has no text tower that computes what a {cls.describe(options)} does")

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        """[n, context] int64 token ids → outputs by name: "embedding" [n, D]; "tokens" [n, context, W] if it has them.

        Raises:
            ValueError: if it does not have one of ``outputs``.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is computed.")
