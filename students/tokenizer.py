"""What every tokenizer of a text tower offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import torch


class Tokenizer(ABC):
    """Texts in, token ids out: padded, and cut to a fixed number of tokens.

    Attributes:
        FILE: the name of its file in a run and in an export.
        KIND: what that file is, in a few words.
        model: the content of that file.
        context: tokens a text.
    """

    FILE: ClassVar[str] = "tokenizer.model"
    KIND: ClassVar[str] = "tokenizer"

    model: bytes
    context: int

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> Tokenizer:
        """A tokenizer of at most ``vocab`` token ids, made from texts.

        Raises:
            ValueError: if that many token ids are too few, or it cannot be trained; the message says what to do.
        """

    @classmethod
    @abstractmethod
    def load(cls, path: Path, context: int) -> Tokenizer:
        """Read its file.

        Raises:
            ValueError: if it cannot be read or is not a tokenizer of this kind.
        """

    @property
    @abstractmethod
    def vocab(self) -> int:
        """The number of token ids."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[len(texts), context] int64 token ids."""
