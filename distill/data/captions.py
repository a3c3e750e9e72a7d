"""Captions: reading them from a sample, and drawing those of an epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.config import CAPTION_KEYS, Data
from distill.data.keyed_random import uniform
from distill.data.shards import Sample


@dataclass(frozen=True)
class Caption:
    """A caption; ``language`` is "" if the shard does not name it."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Captions:
    """How captions are read from a sample and drawn for an epoch.

    Attributes:
        keys: the keys in a sample's ``KEY.json`` that hold captions.
        languages: only captions of these languages, or without a language, are kept; empty keeps all.
        first_share: the probability of drawing the first caption; None draws all with equal probability.
        first_only: always draw the first caption.
    """

    keys: tuple[str, ...] = CAPTION_KEYS
    languages: tuple[str, ...] = ()
    first_share: float | None = None
    first_only: bool = False

    @classmethod
    def from_table(cls, data: Data) -> Captions:
        """With the settings of a recipe's ``[data]`` table."""
        return cls(data.caption_keys, data.languages, data.first_share, data.captions == "first")

    def read(self, sample: Sample) -> list[Caption]:
        """All captions of a sample, without repetitions: ``KEY.txt`` first, then ``KEY.json`` in its order.

        Raises:
            BadSample: if there is no caption, or the files are not UTF-8 or not JSON.
        """
        try:
            found = [Caption(sample.txt.decode().strip())] if sample.txt is not None else []
            if sample.json is not None:
                tree = json.loads(sample.json)
                for key in self.keys:
                    found += captions_in(tree.get(key)) if isinstance(tree, dict) else []
        except (ValueError, RecursionError) as error:
            raise sample.error(f"its captions cannot be read: {error}") from error
        # A caption that occurs with and without a language gets the language, at the position where it occurs first.
        languages = {c.text: c.language for c in reversed(found) if c.language}
        texts = dict.fromkeys(c.text for c in found if c.text)
        captions = [Caption(text, languages.get(text, "")) for text in texts]
        kept = [c for c in captions if not self.languages or c.language in ("", *self.languages)]
        if not kept:
            hint = f" in {', '.join(self.languages)} (see data.languages)" if captions else " (see data.caption_keys)"
            raise sample.error(f"there is no caption{hint}")
        return kept

    def draw(self, captions: Sequence[Caption], key: str, seed: int, epoch: int, count: int = 1) -> list[Caption]:
        """The captions for an epoch: a function of (key, seed, epoch) alone.

        With a ``count`` above 1 they are taken in order, each epoch continuing where the one before stopped; an image
        with fewer captions repeats them.
        """
        if count > 1:
            first = 0 if len(captions) <= count else epoch * count
            return [captions[(first + i) % len(captions)] for i in range(count)]
        return [self._draw_one(captions, key, seed, epoch)]

    def _draw_one(self, captions: Sequence[Caption], key: str, seed: int, epoch: int) -> Caption:
        if self.first_only or len(captions) == 1:
            return captions[0]
        coin, position = uniform(f"{seed} {epoch} {key}", 2)
        if self.first_share is None:
            return captions[int(position * len(captions))]
        if coin < self.first_share:
            return captions[0]
        return captions[1 + int(position * (len(captions) - 1))]


def captions_in(value: Any, language: str = "") -> list[Caption]:
    """The captions in a value of JSON or of a table: the one way in, for shards, streams, tables and annotation files.

    Args:
        value: text, a list, ``{language: …}``, or ``{"text": …, "language": …}``, nested as you like. None and NaN,
            which pandas writes for a missing value, hold no caption.
        language: of the captions for which ``value`` itself names none.

    Returns:
        The captions in their order, stripped of white space at both ends; also empty ones and repetitions.

    Raises:
        ValueError: if it holds something else, such as a number.
        RecursionError: if it is nested too deeply.
    """
    if value is None or value != value:
        return []
    if isinstance(value, str):
        # JSON can encode an unpaired surrogate, which is not valid Unicode text: SentencePiece rejects it.
        return [Caption(value.encode("utf-8", "replace").decode().strip(), language)]
    if isinstance(value, list):
        return [caption for item in value for caption in captions_in(item, language)]
    if isinstance(value, dict) and "text" in value:
        return captions_in(value["text"], str(value.get("language") or language))
    if isinstance(value, dict):
        return [caption for name, item in value.items() for caption in captions_in(item, str(name))]
    raise ValueError(f"{value!r:.60} is no text")
