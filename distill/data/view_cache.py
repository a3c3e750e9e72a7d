"""The cache of an image teacher: one row for each view of an image.

Outputs are stored as [views, n, …]. If an image did not decode, all bits of its checksum are inverted, so that no
single flipped bit turns a missing row into a valid one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from distill.config import TeacherTable
from distill.data.cache import Cache
from distill.data.checksums import ABSENT, checksums
from distill.data.identity import identity_of_views, output_shape
from distill.data.index import ShardIndex
from distill.data.shards import Shards
from distill.data.views import Views, decode
from distill.errors import BadSample
from distill.wording import counted

if TYPE_CHECKING:
    from teachers import Card, Teacher


class ViewCache(Cache):
    """The cached outputs of one image teacher.

    Attributes:
        views: how views are drawn.
    """

    def __init__(self, table: TeacherTable, card: Card, views: Views, outputs: Sequence[str] = ("embedding",)) -> None:
        shapes = {name: output_shape(card, table.image_size, name) for name in outputs}
        super().__init__(table, card, shapes, identity_of_views(table, card, views, shapes))
        self.views, self.choices = views, table.views

    def rows_per_sample(self, shards: Shards) -> float:
        return self.table.views

    def describe(self, samples: int, rows: float) -> str:
        return f"{counted(samples, 'image')}, {counted(self.table.views, 'view')}"

    def leading(self, index: ShardIndex, stored: Mapping[str, list[int]]) -> dict[str, list[int]]:
        return {"": [self.table.views, len(index)]}

    def write(
        self, index: ShardIndex, outputs: Mapping[str, torch.Tensor], weights: str, absent: Sequence[int] = ()
    ) -> None:
        """Write a shard's outputs.

        Args:
            index: the index of the shard.
            outputs: all outputs of the cache by name, [views, n, …].
            weights: the teacher's fingerprint.
            absent: the rows without an output, because their image did not decode.

        Raises:
            UserError: if they cannot be written, for example because the disk is full; then there is no file.
        """
        tensors: dict[str, torch.Tensor] = {}
        for output, (name, sums_name) in self.tensors.items():
            sums = checksums(outputs[output])
            sums[:, list(absent)] ^= ABSENT
            # As signed integers, because safetensors' unsigned types do not correspond to torch's.
            tensors |= {name: outputs[output], sums_name: torch.from_numpy(sums.view(np.int32))}
        self.write_tensors(index, tensors, weights)

    def row(self, shards: Shards, i: int, view: int) -> dict[str, torch.Tensor]:
        """The cached outputs of one view of sample i by name, float32, with the shapes in ``shapes``.

        Raises:
            BadSample: if it has none, because its image did not decode.
            UserError: if the bytes do not match their checksum, or the file cannot be read.
        """
        shard, row = shards.locate(i)
        leading = self.table.views, int(shards.counts[shard])
        outputs = self.read(shards, shard, leading, view * leading[1] + row, f"row {row} of view {view}")
        if outputs is None:
            raise BadSample(shards.indexes.name(shard), shards.key(i), "the teacher's cache has no embedding of it")
        return outputs

    def compared(
        self, shards: Shards, i: int, choice: int, teacher: Teacher
    ) -> tuple[str, dict[str, torch.Tensor], Mapping[str, torch.Tensor]]:
        image, cached = decode(shards.read(i, ["image"])), self.row(shards, i, choice)
        drawn = self.views.draw(shards.key(i), choice, image.size)
        pixels = drawn.render(image, self.identity["image_size"], self.card.interpolation)
        return f"view {choice}", cached, teacher(pixels[None].to(teacher.mean.device))
