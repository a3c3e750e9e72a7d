"""Captions: reading them from a sample, and drawing those of an epoch."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.data.keyed_random import uniform
from distill.data.sample import Sample
from distill.data_table import CAPTION_KEYS, Data

TEXT_KEYS = ("text", "caption", "raw", "sentence")  # of an object that is one caption, beside what else it holds
MAX_NAMED = 8  # keys of a sample's JSON in a message


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

        Of JSON, the values under ``keys`` are read; also a list of objects with such keys, and a plain text or list.

        Raises:
            BadSample: if there is no caption, or the files are not UTF-8 or not JSON, or hold something else in its
                place.
        """
        try:
            found = [] if sample.txt is None else captions_in(text_of(sample.txt))
            tree = None if sample.json is None else json.loads(sample.json)
            found += self._in_tree(tree)
        except (ValueError, RecursionError) as error:
            raise sample.error(f"its captions cannot be read: {error}") from error
        captions = self._distinct(found)
        kept = [c for c in captions if not self.languages or c.language in ("", *self.languages)]
        if not kept:
            raise sample.lacks(f"caption{self._what_there_is(sample, tree, captions)}")
        return kept

    def _distinct(self, found: Sequence[Caption]) -> list[Caption]:
        """Captions without empty ones and repetitions.

        One that occurs with and without a language gets the language, at the position where it occurs first; one that
        occurs in several languages the first of them, if possible one of ``languages``.
        """
        languages: dict[str, list[str]] = {}
        for caption in found:
            if caption.text:
                languages.setdefault(caption.text, []).append(caption.language)
        return [
            Caption(text, min((one for one in own if one), key=lambda one: one not in self.languages, default=""))
            for text, own in languages.items()
        ]

    def _in_tree(self, tree: Any, within: bool = False) -> list[Caption]:
        """The captions in a ``KEY.json``: those under the keys, in a list of such objects, or the text itself.

        Args:
            tree: the JSON.
            within: whether it is within a list, where ``{"text": …, "language": …}`` is a caption too.
        """
        if isinstance(tree, list):
            return [caption for item in tree for caption in self._in_tree(item, within=True)]
        if isinstance(tree, dict) and not (within and self._is_caption(tree)):
            return [caption for key in self.keys for caption in captions_in(tree.get(key))]
        return captions_in(tree)

    def _is_caption(self, tree: dict[str, Any]) -> bool:
        """Whether an object in a list is a caption itself, and not one that has captions under the keys."""
        return tree.keys().isdisjoint(self.keys) and not tree.keys().isdisjoint(TEXT_KEYS)

    def _what_there_is(self, sample: Sample, tree: Any, captions: Sequence[Caption]) -> str:
        """What a sample has in place of a caption that can be used, as the end of a sentence; "" for nothing."""
        if captions:
            own = ", ".join(dict.fromkeys(caption.language for caption in captions))
            return f" in {', '.join(self.languages)}, only in {own} (see data.languages)"
        empty = " and its KEY.txt is empty" if sample.txt is not None else ""
        if not isinstance(tree, dict):
            return f":{empty.removeprefix(' and')}" if empty else ": no KEY.txt and no KEY.json with one"
        looked, held = ", ".join(self.keys), ", ".join(map(str, [*tree][:MAX_NAMED])) or "none"
        more = ", …" if len(tree) > MAX_NAMED else ""
        under = f" under {looked} in its KEY.json, whose keys are {held}{more}"
        return f"{under}{empty} (see data.caption_keys)"

    def draw(self, captions: Sequence[Caption], key: str, seed: int, epoch: int, count: int = 1) -> list[Caption]:
        """The captions for an epoch, see :meth:`draw_numbers`."""
        return [captions[number] for number in self.draw_numbers(len(captions), key, seed, epoch, count)]

    def draw_numbers(self, available: int, key: str, seed: int, epoch: int, count: int = 1) -> list[int]:
        """Which of a sample's captions are those for an epoch: a function of (key, seed, epoch) and their number.

        With a ``count`` above 1 they are taken in order, each epoch continuing where the one before stopped; an image
        with fewer captions repeats them.
        """
        if count > 1:
            first = 0 if available <= count else epoch * count
            return [(first + i) % available for i in range(count)]
        return [self._draw_one(available, key, seed, epoch)]

    def _draw_one(self, available: int, key: str, seed: int, epoch: int) -> int:
        if self.first_only or available == 1:
            return 0
        coin, position = uniform(f"{seed} {epoch} {key}", 2)
        if self.first_share is None:
            return int(position * available)
        if coin < self.first_share:
            return 0
        return 1 + int(position * (available - 1))


def text_of(data: bytes) -> str:
    """The text of a ``KEY.txt``, one caption whatever its lines; a byte order mark at its beginning is left out.

    Raises:
        ValueError: if it is not UTF-8.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("its KEY.txt is in UTF-16: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"its KEY.txt is not in UTF-8: {error}") from error


def captions_in(value: Any, language: str = "") -> list[Caption]:
    """The captions in a value of JSON or of a table: the one way in, for shards, streams, tables and annotation files.

    Args:
        value: text, a list, ``{language: …}``, or ``{"text": …, "language": …}``, where "text" may be another of
            ``TEXT_KEYS``, nested as you like. None and NaN, which pandas writes for a missing value, hold no caption.
        language: of the captions for which ``value`` itself names none.

    Returns:
        The captions in their order, stripped of white space at both ends; also empty ones and repetitions.

    Raises:
        ValueError: if it holds something else, such as a number, or text with zero bytes.
        RecursionError: if it is nested too deeply.
    """
    if value is None or value != value:
        return []
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("a caption holds zero bytes: it is no text, or in another encoding than UTF-8")
        # JSON can encode an unpaired surrogate, which is not valid Unicode text: SentencePiece rejects it.
        return [Caption(value.encode("utf-8", "replace").decode().strip(), language)]
    if isinstance(value, list):
        return [caption for item in value for caption in captions_in(item, language)]
    if isinstance(value, dict) and (name := next((key for key in TEXT_KEYS if key in value), None)):
        return captions_in(value[name], str(value.get("language") or value.get("lang") or language))
    if isinstance(value, dict):
        return [caption for name, item in value.items() for caption in captions_in(item, str(name))]
    raise ValueError(f"{value!r:.60} is no text")
