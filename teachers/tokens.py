"""The tokenizer of a text teacher."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from teachers import hugging_face, open_clip_folder
from teachers.card import Card
from teachers.folder import import_library, load_json, pad_token_id, text_teacher_folder

# What loads the towers of folders of other libraries, by ``Card.library``.
LIBRARIES: dict[str, Any] = {"transformers": hugging_face, "open_clip": open_clip_folder}


class TextTokenizer:
    """Turns texts into the token ids of a text teacher.

    Only the card is pickled, so each loader process loads the tokenizer from the teacher's folder itself.

    Attributes:
        card: the teacher's card.
    """

    def __init__(self, card: Card) -> None:
        self.card = card

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[n, context] int64: the token ids of n texts, each truncated or padded to the card's ``context``."""
        return self._encode(texts)

    @cached_property
    def _encode(self) -> Callable[[Sequence[str]], torch.Tensor]:
        if self.card.library:
            # Its threads are not needed, see below.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            return LIBRARIES[self.card.library].text_encoder(self.card, text_teacher_folder(self.card))
        own, context = self._tokenizer(), self.card.context

        def encode(texts: Sequence[str]) -> torch.Tensor:
            rows = [row.ids for row in own.encode_batch(list(texts))]
            return torch.tensor(rows, dtype=torch.int64).view(len(rows), context)

        return encode

    def _tokenizer(self) -> Any:
        # The library tokenizes in threads, and its older versions print a warning in every process forked afterwards.
        # Threads are not needed, since loader processes run in parallel. A value that the user has set is kept.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizers, folder = import_library("tokenizers", self.card), text_teacher_folder(self.card)
        path, vocab = folder / "tokenizer.json", load_json(folder / "config.json", dict).get("vocab_size", 0)
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{path} is missing or damaged: {error}. Save the sentence encoder again.") from error
        if tokenizer.get_vocab_size() > vocab:
            raise ValueError(
                f"{path} has {tokenizer.get_vocab_size()} tokens, its network {vocab}. They must be a pair."
            )
        if self.card.context <= tokenizer.num_special_tokens_to_add(False):
            raise ValueError(f"A context of {self.card.context} tokens holds no text. Give the card a larger one.")
        tokenizer.enable_truncation(self.card.context)
        tokenizer.enable_padding(length=self.card.context, pad_id=pad_token_id(folder))
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {"card": self.card}


def tokenizer(card: Card) -> TextTokenizer:
    """The tokenizer of a text teacher.

    Raises:
        ImportError: if a package it needs is not installed; the message says what to run.
        ValueError: if the card is an image teacher's, or its folder is damaged.
    """
    text_tokenizer = TextTokenizer(card)
    text_tokenizer.encode([])  # loads it, so that errors are raised here and not in a loader process
    return text_tokenizer
