"""Embedding captions for teacher caches: each text of a shard once, however often it occurs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

import teachers
from distill.data.caption_cache import CaptionCache, text_hash
from distill.data.captions import Captions
from distill.data.loading import prefetch
from distill.data.shard_rows import begin, check_finite
from distill.data.shards import Shards
from distill.errors import BadSample, UserError, as_user_errors

if TYPE_CHECKING:
    from teachers import Teacher, TextTokenizer

BATCH = 256  # texts per teacher forward


@dataclass(frozen=True)
class ShardTexts:
    """The captions of a shard.

    Attributes:
        ends: [n] int64, the number of captions up to the end of each sample.
        hashes: [m] int64, the hash of each caption.
        places: [m] int64, which of the different texts each caption is.
        tokens: for each tokenizer the token ids of the different texts, [u, context] int64.
    """

    ends: torch.Tensor
    hashes: torch.Tensor
    places: torch.Tensor
    tokens: tuple[torch.Tensor, ...]


class TextsOfShards(Dataset[ShardTexts]):
    """The captions of whole shards: item k is a :class:`ShardTexts`, or an error for the main process to raise.

    Args:
        shards: the shards.
        captions: how captions are read.
        tokenizers: of the teachers.
    """

    def __init__(self, shards: Shards, captions: Captions, tokenizers: Sequence[TextTokenizer]) -> None:
        self.shards, self.captions, self.tokenizers = shards, captions, tuple(tokenizers)

    def __len__(self) -> int:
        return len(self.shards.indexes)

    def __getitem__(self, k: int) -> ShardTexts | UserError:  # type: ignore[override]
        texts, ends = list[str](), list[int]()
        for i in range(int(self.shards.starts[k]), int(self.shards.starts[k + 1])):
            try:
                texts += [caption.text for caption in self.captions.read(self.shards.read(i, ["txt", "json"]))]
            except BadSample:
                pass  # it has no rows; training passes over it, too
            except UserError as error:
                return error
            ends.append(len(texts))
        # Texts of similar length together: a batch is computed at the length of its longest text.
        different = sorted(set(texts), key=lambda text: (len(text), text))
        place = {text: number for number, text in enumerate(different)}
        return ShardTexts(
            ends=torch.tensor(ends, dtype=torch.int64),
            hashes=torch.tensor([text_hash(text) for text in texts], dtype=torch.int64),
            places=torch.tensor([place[text] for text in texts], dtype=torch.int64),
            tokens=tuple(tokenizer.encode(different) for tokenizer in self.tokenizers),
        )


def embed_captions(
    caches: Sequence[CaptionCache],
    live: Sequence[Teacher],
    shards: Shards,
    workers: int,
    advance: Callable[[int], object],
) -> None:
    """Embed all captions of some shards; for the arguments see :func:`distill.data.cache_fill.embed`."""
    with as_user_errors():
        tokenizers = [teachers.tokenizer(cache.card) for cache in caches]
    fingerprints = [teacher.fingerprint() for teacher in live]
    dataset = TextsOfShards(shards, caches[0].captions, tokenizers)
    with closing(prefetch(dataset, workers, pin=False, batch_size=None, collate_fn=as_it_is)) as loaded:
        for index, texts in zip(shards.indexes, loaded, strict=True):
            if isinstance(texts, UserError):
                raise texts
            begin(caches, index, fingerprints)
            for number, (cache, weights) in enumerate(zip(caches, fingerprints, strict=True)):
                different = embedded(cache, live[number], texts.tokens[number])
                outputs = {name: rows[texts.places] for name, rows in different.items()}
                for rows in outputs.values():
                    check_finite(cache, index.path, rows)
                cache.write(index, outputs, texts.ends, texts.hashes, weights)
            advance(len(index))


def embedded(cache: CaptionCache, teacher: Teacher, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The outputs of a teacher for texts by name, [u, …], in the cache's dtype."""
    device = teacher.mean.device
    outputs = {
        name: torch.zeros(len(tokens), *shape, dtype=cache.dtype, device=device)
        for name, shape in cache.shapes.items()
    }
    for start in range(0, len(tokens), BATCH):
        computed = teacher(tokens[start : start + BATCH].to(device))
        for name, rows in outputs.items():
            rows[start : start + BATCH] = computed[name]
    return {name: rows.cpu() for name, rows in outputs.items()}


def as_it_is(item: Any) -> Any:
    """The collate function: an item is a whole shard."""
    return item
