"""Captions: which ones a sample has, which one an epoch shows, and how text becomes tokens."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.data.keyed_random import uniform
from distill.data.shards import Sample
from distill.errors import UserError

CHARACTERS = 64  # more of them a token of context are not read; a piece of SentencePiece's has at most 16


@dataclass(frozen=True)
class Caption:
    """A caption; ``language`` is "" where the shard does not say."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Captions:
    """How captions are read from a sample and drawn for an epoch; fields as in the recipe's ``[data]``."""

    keys: tuple[str, ...] = ("captions", "caption")
    languages: tuple[str, ...] = ()
    first_share: float | None = None
    first_only: bool = False

    def of(self, sample: Sample) -> list[Caption]:
        """All captions of a sample, without repetitions: ``KEY.txt`` first, then ``KEY.json`` in its order.

        Raises:
            BadSample: if there is none, or the text is not UTF-8 or not JSON.
        """
        try:
            found = [Caption(sample.txt.decode().strip())] if sample.txt is not None else []
            if sample.json is not None:
                tree = json.loads(sample.json)
                for key in self.keys:
                    found += flatten(tree.get(key)) if isinstance(tree, dict) else []
        except (ValueError, RecursionError) as error:
            raise sample.error(f"its captions cannot be read: {error}") from error
        # The same words with a language tell more than without one, but keep the first one's place.
        tagged = {c.text: c.language for c in reversed(found) if c.language}
        texts = dict.fromkeys(c.text for c in found if c.text)
        captions = [Caption(text, tagged.get(text, "")) for text in texts]
        kept = [c for c in captions if not self.languages or c.language in ("", *self.languages)]
        if not kept:
            spoken = (
                f" in {', '.join(self.languages)} (see data.languages)" if captions else " (see data.caption_keys)"
            )
            raise sample.error(f"there is no caption{spoken}")
        return kept

    def draw(self, captions: Sequence[Caption], key: str, seed: int, epoch: int, count: int = 1) -> list[Caption]:
        """The captions an epoch shows: a function of (key, seed, epoch) alone.

        With a ``count`` above 1 they come in turn, going on where the last epoch stopped, and start again where an
        image has fewer.
        """
        if count > 1:
            first = 0 if len(captions) <= count else epoch * count
            return [captions[(first + i) % len(captions)] for i in range(count)]
        return [self._draw_one(captions, key, seed, epoch)]

    def _draw_one(self, captions: Sequence[Caption], key: str, seed: int, epoch: int) -> Caption:
        if self.first_only or len(captions) == 1:
            return captions[0]
        first, which = uniform(f"{seed} {epoch} {key}", 2)
        if self.first_share is None:
            return captions[int(which * len(captions))]
        if first < self.first_share:
            return captions[0]
        return captions[1 + int(which * (len(captions) - 1))]


def flatten(value: Any, language: str = "") -> list[Caption]:
    """Captions from a JSON value: text, a list, ``{language: …}``, or ``{"text": …, "language": …}``."""
    if isinstance(value, str):
        # JSON can spell half a surrogate pair, which is no text: SentencePiece refuses it.
        return [Caption(value.encode("utf-8", "replace").decode().strip(), language)]
    if isinstance(value, list):
        return [caption for item in value for caption in flatten(item, language)]
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return flatten(value["text"], str(value.get("language") or language))
    if isinstance(value, dict):
        return [caption for name, item in value.items() for caption in flatten(item, str(name))]
    return []


class Tokenizer:
    """A SentencePiece model that pads and cuts to a fixed number of tokens.

    Attributes:
        model: the serialised SentencePiece model; what an export ships as ``tokenizer.model``.
        context: tokens a caption.
    """

    PAD = 0

    def __init__(self, model: bytes, context: int) -> None:
        import sentencepiece

        self.model, self.context = model, context
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError("The tokenizer file is no SentencePiece model.", "Correct tokenizer.file.") from error
        if self._processor.pad_id() != self.PAD:
            raise UserError(
                f"The SentencePiece model pads with id {self._processor.pad_id()}; the text tower expects {self.PAD}.",
                "Train it with pad_id=0, or let distill train one: leave tokenizer.file empty.",
            )

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> Tokenizer:
        """A unigram model of at most ``vocab`` pieces; case-folded, as captions are.

        Raises:
            UserError: if that many pieces cannot hold the captions' characters.
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
            raise UserError(
                f"SentencePiece cannot make {vocab} pieces of these captions: {str(error).splitlines()[-1]}",
                "Raise student.tokenizer.vocab; every character of the captions needs a piece.",
            ) from error
        return cls(out.getvalue(), context)

    @classmethod
    def load(cls, path: Path, context: int) -> Tokenizer:
        """Read a model file.

        Raises:
            UserError: if it cannot be read or is none.
        """
        try:
            return cls(path.read_bytes(), context)
        except OSError as error:
            raise UserError(f"The tokenizer {path} cannot be read: {error.strerror}.", "Correct its path.") from error

    @property
    def vocab(self) -> int:
        """The number of token ids."""
        return int(self._processor.GetPieceSize())

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[len(texts), context] int64, padded with ``PAD``."""
        tokens = torch.full((len(texts), self.context), self.PAD, dtype=torch.int64)
        # The end of a text a megabyte long cannot matter, and would take a second.
        within = [text[: CHARACTERS * self.context] for text in texts]
        for row, ids in enumerate(self._processor.Encode(within)):
            ids = ids[: self.context]
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens
