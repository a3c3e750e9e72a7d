"""The cache of a text teacher: one row for each caption.

The rows of a shard are all captions of its samples, in the order in which :meth:`Captions.read` gives them. Outputs
are stored as [m, …] for m captions. Besides there are ``ends`` [n], the number of captions up to the end of each
sample, and ``texts`` [m], a hash of each caption, so that a row is only used for the very text of which it was
computed. A sample whose captions cannot be read has no rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import teachers
from distill.config import TeacherTable
from distill.data.cache import Cache
from distill.data.captions import Captions
from distill.data.checksums import checksums
from distill.data.identity import identity_of_captions, output_shape
from distill.data.index import ShardIndex
from distill.data.picture_lists import is_picture_list
from distill.data.shards import Shards
from distill.errors import BadSample, UserError
from distill.wording import counted

if TYPE_CHECKING:
    from teachers import Card, Teacher

COUNTED = 100  # samples of which captions are counted, to estimate how many there are
ENDS, TEXTS = "ends", "texts"


class CaptionCache(Cache):
    """The cached outputs of one text teacher.

    Attributes:
        captions: how captions are read.
    """

    choices = 1 << 20  # a sample may have any number of captions
    further = {ENDS: "I64", TEXTS: "I64"}  # noqa: RUF012

    def __init__(
        self, table: TeacherTable, card: Card, captions: Captions, outputs: Sequence[str] = ("embedding",)
    ) -> None:
        shapes = {name: output_shape(card, 0, name) for name in outputs}
        super().__init__(table, card, shapes, identity_of_captions(table, card, captions, shapes))
        self.captions = captions

    def takes(self, shard: Path) -> bool:
        return not is_picture_list(shard)

    def rows_per_sample(self, shards: Shards) -> float:
        found = [0]
        for i in range(0, len(shards), 1 + (len(shards) - 1) // COUNTED):
            try:
                found.append(len(self.captions.read(shards.read(i, ["txt", "json"]))))
            except BadSample:
                found.append(0)
        return sum(found) / max(1, len(found) - 1)

    def describe(self, samples: int, rows: float) -> str:
        return f"about {counted(round(rows), 'caption')}"

    def leading(self, index: ShardIndex, stored: Mapping[str, list[int]]) -> dict[str, list[int]]:
        return {"": stored[TEXTS][:1], ENDS: [len(index)], TEXTS: stored[TEXTS][:1]}

    def write(
        self,
        index: ShardIndex,
        outputs: Mapping[str, torch.Tensor],
        ends: torch.Tensor,
        texts: torch.Tensor,
        weights: str,
    ) -> None:
        """Write a shard's outputs.

        Args:
            index: the index of the shard.
            outputs: all outputs of the cache by name, [m, …].
            ends: [n] int64, the number of captions up to the end of each sample.
            texts: [m] int64, the :func:`text_hash` of each caption.
            weights: the teacher's fingerprint.

        Raises:
            UserError: if they cannot be written, for example because the disk is full; then there is no file.
        """
        tensors = {ENDS: ends, TEXTS: texts}
        for output, (name, sums) in self.tensors.items():
            found = checksums(outputs[output][None])[0]
            tensors |= {name: outputs[output], sums: torch.from_numpy(found.view(np.int32))}
        self.write_tensors(index, tensors, weights)

    def rows(self, shards: Shards, i: int, numbers: Sequence[int], texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The cached outputs of some captions of sample i by name, [C, …] float32.

        Args:
            numbers: which of its captions, counted from 0.
            texts: these captions.

        Raises:
            UserError: if a row is of another text, its bytes do not match their checksum, or the file cannot be read.
        """
        shard, row = shards.locate(i)
        end = self._end(shards, shard, row)
        first, found = self._end(shards, shard, row - 1) if row else 0, []
        for number, text in zip(numbers, texts, strict=True):
            stored = self.read_tensors(shards, shard, [TEXTS], (), first + number) if number < end - first else {}
            if not stored or int(stored[TEXTS]) != text_hash(text):
                raise UserError(
                    f"The cached embeddings {self.file(shards.indexes.path(shard))} have none of the caption "
                    f"'{text:.60}' of the sample '{shards.key(i)}': they are damaged, or were made of other captions.",
                    "Remove that file.",
                )
            outputs = self.read(shards, shard, (), first + number, f"row {first + number}")
            if outputs is None:
                raise self.damaged(shards, shard, f"row {first + number} is not what was written")
            found.append(outputs)
        return {name: torch.stack([outputs[name] for outputs in found]) for name in self.shapes}

    def _end(self, shards: Shards, shard: int, row: int) -> int:
        """The number of captions of a shard up to the end of the sample in a row."""
        leading = (int(shards.counts[shard]),)
        return int(self.read_tensors(shards, shard, [ENDS], leading, row)[ENDS])

    def compared(
        self, shards: Shards, i: int, choice: int, teacher: Teacher
    ) -> tuple[str, dict[str, torch.Tensor], Mapping[str, torch.Tensor]]:
        captions = self.captions.read(shards.read(i, ["txt", "json"]))
        number = choice * len(captions) // self.choices
        text = captions[number].text
        cached = {name: rows[0] for name, rows in self.rows(shards, i, [number], [text]).items()}
        tokens = teachers.tokenizer(self.card).encode([text])
        return f"caption {number}", cached, teacher(tokens.to(teacher.mean.device))


def text_hash(text: str) -> int:
    """64 bits of BLAKE2 of a text, as a signed integer."""
    data = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(data, "little", signed=True)
