"""A text teacher's tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from teachers.card import Card
from teachers.folder import folder_of, library, pad_of, settings


class TextTokenizer:
    """Texts in, the token ids of a text teacher out. Pickled it is its card: loader processes load their own.

    Attributes:
        card: the teacher's.
    """

    def __init__(self, card: Card) -> None:
        self.card = card

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[n, context] int64: each text, cut off where it is too long, filled up with the padding id."""
        rows = [row.ids for row in self._tokenizer.encode_batch(list(texts))]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.card.context)

    @cached_property
    def _tokenizer(self) -> Any:
        # The library tokenizes in threads, and its older versions warn in every process forked after that. Loader
        # processes are the parallelism here; whoever has set this variable keeps what they chose.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizers, folder = library("tokenizers", self.card), folder_of(self.card)
        path, vocab = folder / "tokenizer.json", settings(folder / "config.json", dict).get("vocab_size", 0)
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more particular
            raise ValueError(f"{path} is missing or damaged: {error}. Save the sentence encoder again.") from error
        if tokenizer.get_vocab_size() > vocab:
            raise ValueError(
                f"{path} has {tokenizer.get_vocab_size()} tokens, its network {vocab}. They must be a pair."
            )
        if self.card.context <= tokenizer.num_special_tokens_to_add(False):
            raise ValueError(f"A context of {self.card.context} tokens holds no text. Give the card a larger one.")
        tokenizer.enable_truncation(self.card.context)
        tokenizer.enable_padding(length=self.card.context, pad_id=pad_of(folder))
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {"card": self.card}


def tokenizer(card: Card) -> TextTokenizer:
    """The tokenizer of a text teacher.

    Raises:
        ImportError: if a package it needs is not installed; the message says what to run.
        ValueError: if the card is an image teacher's, or its folder is damaged.
    """
    found = TextTokenizer(card)
    found.encode([])  # loads it: what is wrong is said here, not in a loader process
    return found
