"""open_clip's byte-pair tokenizer, from a file of merges."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from students.hugging_face_tokenizer import readable
from students.optional import import_library
from students.tokenizer import Tokenizer

COMMAND = "pip install 'distill[open-clip]'"


class BytePairTokenizer(Tokenizer):
    """``open_clip.SimpleTokenizer``: lower-cased bytes and their merges between a start and an end token; 0 pads.

    Attributes:
        model: a file of merges, compressed with gzip.
        context: tokens per text, the start and the end included.
    """

    FILE = "bpe_vocab.txt.gz"
    KIND = "list of byte-pair merges, as open_clip reads it"

    def __init__(self, model: bytes, context: int) -> None:
        library = import_library("open_clip.tokenizer", "open_clip", COMMAND)
        self.model, self.context = model, context
        if context < 3:
            raise ValueError(f"A context of {context} tokens holds no text. Set student.text.context to 3 or more.")
        try:
            self._own = library.SimpleTokenizer(bpe_path=io.BytesIO(model), context_length=context)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"The tokenizer's file is damaged: {error}. Restore {self.FILE}.") from error

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> BytePairTokenizer:
        raise ValueError("The tokenizer of open_clip's text tower comes with it and is not trained.")

    @classmethod
    def packaged(cls, context: int) -> BytePairTokenizer:
        """The tokenizer that comes with open_clip, that of CLIP (arXiv 2103.00020, section 2.4).

        Raises:
            ImportError: if open_clip is not installed; the message says what to run.
        """
        library = import_library("open_clip.tokenizer", "open_clip", COMMAND)
        return cls.load(Path(library.default_bpe()), context)

    @property
    def vocab(self) -> int:
        return int(self._own.vocab_size)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[len(texts), context] int64, with the start and the end token, padded with 0."""
        found: torch.Tensor = self._own(readable(texts)) if texts else torch.zeros(0, self.context, dtype=torch.int64)
        return found

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        start, end = self._own.sot_token_id, self._own.eot_token_id
        return [[start, *self._own.encode(text), end] for text in readable(texts)]
