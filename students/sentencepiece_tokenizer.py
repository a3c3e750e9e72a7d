"""The SentencePiece tokenizer of the text Transformer."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from students.tokenizer import Tokenizer

CHARACTERS_PER_TOKEN = 64  # of a text so many are tokenized; SentencePiece's pieces have at most 16
NORMALIZATION = "nmt_nfkc_cf"  # compatible characters become one, and case is folded
SPECIAL = 2  # pieces: padding and unknown
BYTES = 256  # pieces of byte fallback
LONGEST_TEXT = 4192  # bytes of UTF-8; SentencePiece leaves longer texts out of its training
# SentencePiece leaves texts with these characters out of its training, too.
RESERVED = str.maketrans({"\0": " ", "\t": " ", "\u2585": " "})
EXAMPLE = """def encode(texts, path, context):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(texts)
    return np.array([ids[:context] + [0] * (context - len(ids)) for ids in pieces], np.int64)
"""


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; the padding id is 0.

    Attributes:
        model: the serialised SentencePiece model.
        context: tokens per text.
    """

    KIND = "SentencePiece model"
    PAD = 0
    EXAMPLE = EXAMPLE
    PACKAGE = "sentencepiece"

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
        """Train a byte-pair model of at most ``vocab`` pieces that folds case and can express each of the texts.

        Where the vocabulary has room for 256 pieces of single bytes, characters without a piece of their own are
        written in bytes; the most frequent characters have pieces, up to half of the other pieces. In a smaller
        vocabulary every character has a piece.

        SentencePiece's unigram models were tried, too. On captions they need more tokens, up to four times as many:
        the pieces they begin with do not contain a word that is always followed by the same one.

        Raises:
            ValueError: if ``vocab`` is too small for the characters of the texts.
        """
        import sentencepiece

        normalizer = sentencepiece.SentencePieceNormalizer(rule_name=NORMALIZATION)
        prepared = [beginning(text.translate(RESERVED), LONGEST_TEXT) for text in texts]
        characters = Counter[str]()
        for text in prepared:
            characters.update(normalizer.normalize(text))
        check_vocabulary(len(characters), vocab)
        room = room_for_characters(len(characters), vocab)
        if room < len(characters):
            kept = {character for character, _ in characters.most_common(room)}
            prepared = ["".join(c if c in kept else " " for c in normalizer.normalize(text)) for text in prepared]
        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(prepared),
                model_writer=out,
                model_type="bpe",
                vocab_size=vocab,
                hard_vocab_limit=False,
                character_coverage=1.0,
                byte_fallback=uses_bytes(len(characters), vocab),
                normalization_rule_name=NORMALIZATION,
                pad_id=cls.PAD,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,  # the result must not depend on the machine
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(
                f"SentencePiece cannot make {vocab} pieces of these {len(prepared)} captions: "
                f"{str(error).splitlines()[-1]} Change student.tokenizer.vocab, or name a tokenizer with "
                "student.tokenizer.file."
            ) from error
        return cls(out.getvalue(), context)

    @property
    def vocab(self) -> int:
        return int(self._processor.GetPieceSize())

    @property
    def unknown(self) -> int:
        return int(self._processor.unk_id())

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[len(texts), context] int64, padded with ``PAD``."""
        tokens = torch.full((len(texts), self.context), self.PAD, dtype=torch.int64)
        # Cut first: tokenizing a text of a megabyte takes a second, and only its beginning is kept.
        for row, ids in enumerate(self.token_ids([text[: CHARACTERS_PER_TOKEN * self.context] for text in texts])):
            ids = ids[: self.context]
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return list(self._processor.Encode(list(texts)))


def check_vocabulary(characters: int, vocab: int) -> None:
    """Raise ``ValueError`` if so many different characters cannot be expressed with ``vocab`` pieces."""
    if not characters:
        raise ValueError("No caption has a character that a tokenizer could learn. Correct the captions.")
    least = SPECIAL + min(characters, BYTES + 8)
    if vocab < least:
        raise ValueError(
            f"{vocab} pieces are too few for captions with {characters} different characters. "
            f"Set student.tokenizer.vocab to at least {least}."
        )


def uses_bytes(characters: int, vocab: int) -> bool:
    """Whether a vocabulary gets pieces of single bytes: if they are at most a quarter of it, or the characters of the
    texts need more pieces than there are."""
    return vocab >= 4 * BYTES or characters + SPECIAL > vocab


def room_for_characters(characters: int, vocab: int) -> int:
    """How many characters get a piece of their own: all of them without byte pieces, else up to half of the others."""
    return min(characters, (vocab - BYTES - SPECIAL) // 2) if uses_bytes(characters, vocab) else characters


def beginning(text: str, size: int) -> str:
    """As much of a text as takes at most ``size`` bytes in UTF-8."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
