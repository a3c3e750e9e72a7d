"""The interface of the tokenizers of text towers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch


class Tokenizer(ABC):
    """Encodes texts as token ids, padded or truncated to a fixed number of tokens.

    Attributes:
        FILE: the name of its file in a run and in an export.
        KIND: what that file is, for the model card.
        EXAMPLE: Python that defines ``encode(texts, path, context)``, an int64 array [n, context] of NumPy (``np``),
            by the package below alone, for the example of ONNX exports; "" if a few lines do not say it.
        PACKAGE: which ``EXAMPLE`` uses.
        model: the content of that file.
        context: tokens per text.
    """

    FILE: ClassVar[str] = "tokenizer.model"
    KIND: ClassVar[str] = "tokenizer"
    EXAMPLE: ClassVar[str] = ""
    PACKAGE: ClassVar[str] = ""

    model: bytes
    context: int

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> Tokenizer:
        """Train a tokenizer of at most ``vocab`` token ids on texts.

        Raises:
            ValueError: if ``vocab`` is too small, or it cannot be trained; the message says what to do.
        """

    @classmethod
    def load(cls, path: Path, context: int) -> Self:
        """Load a tokenizer from its file: builds ``cls(content of the file, context)``.

        Raises:
            ValueError: if it cannot be read or is not a tokenizer of this kind.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"The tokenizer {path} cannot be read: {error.strerror}. Correct its path.") from error
        return cls(content, context)  # type: ignore[call-arg]

    @property
    @abstractmethod
    def vocab(self) -> int:
        """The number of token ids."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[len(texts), context] int64 token ids."""

    @property
    def unknown(self) -> int | None:
        """The id of the token for what the tokenizer cannot express; None if it can express everything."""
        return None

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        """All token ids of each text, before it is cut or padded; None if the tokenizer does not say."""
        return None
