"""The SentencePiece tokenizer of the text Transformer."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from students.tokenizer import Tokenizer

CHARACTERS_PER_TOKEN = 64  # of a text so many are tokenized; SentencePiece's pieces have at most 16


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; the padding id is 0.

    Attributes:
        model: the serialised SentencePiece model.
        context: tokens per text.
    """

    KIND = "SentencePiece model"
    PAD = 0

    def __init__(self, model: bytes, context: int) -> None:
        import sentencepiece

        self.model, self.context = model, context
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError("The tokenizer file is no SentencePiece model. Correct tokenizer.file.") from error
        if self._processor.pad_id() != self.PAD:
            raise ValueError(
                f"The SentencePiece model pads with id {self._processor.pad_id()}; the text tower expects {self.PAD}. "
                "Train it with pad_id=0, or let distill train one: leave tokenizer.file empty."
            )

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> SentencePieceTokenizer:
        """Train a unigram model of at most ``vocab`` pieces that folds case.

        Raises:
            ValueError: if ``vocab`` is too small for the characters of the texts.
        """
        import sentencepiece

        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=out,
                vocab_size=vocab,
                hard_vocab_limit=False,
                character_coverage=0.9995,
                normalization_rule_name="nmt_nfkc_cf",
                pad_id=cls.PAD,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,  # the result must not depend on the machine
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(
                f"SentencePiece cannot make {vocab} pieces of these captions: {str(error).splitlines()[-1]} "
                "Raise student.tokenizer.vocab; every character of the captions needs a piece."
            ) from error
        return cls(out.getvalue(), context)

    @classmethod
    def load(cls, path: Path, context: int) -> SentencePieceTokenizer:
        try:
            return cls(path.read_bytes(), context)
        except OSError as error:
            raise ValueError(f"The tokenizer {path} cannot be read: {error.strerror}. Correct its path.") from error

    @property
    def vocab(self) -> int:
        return int(self._processor.GetPieceSize())

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[len(texts), context] int64, padded with ``PAD``."""
        tokens = torch.full((len(texts), self.context), self.PAD, dtype=torch.int64)
        # Cut first: tokenizing a text of a megabyte takes a second, and only its beginning is kept.
        beginnings = [text[: CHARACTERS_PER_TOKEN * self.context] for text in texts]
        for row, ids in enumerate(self._processor.Encode(beginnings)):
            ids = ids[: self.context]
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens
