"""Batches: the input of a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from distill.errors import Bad

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch, or a micro-batch of it: n samples with C captions each.

    Attributes:
        inputs: the inputs of the run's students by modality: "image" [n, 3, S, S] uint8, the student's view; "text"
            [n, C, context] int64 token ids. With mixup also "mixed" [n, 3, S, S] uint8: each image mixed with its
            neighbour in the global batch.
        teachers: one entry for each teacher. For a teacher with a cache its outputs by name, [n, 1, …] float32; for an
            online teacher its input by modality: "image" [n, 1, 3, s, s] uint8, the student's view at the teacher's
            resolution (with mixup the mixed view), or "text" [n, C, context] int64, token ids of its own tokenizer.
        keys: n sample keys.
        captioned: how many samples have captions, the first ones; None if all have, or none is read. If some have not,
            texts and the inputs and outputs of text teachers have so many rows instead of n.
        bad: samples that could not be used and were replaced by others.
        checksum: sum of a checksum of each sample; if the sums of two runs are equal, they have used the same samples.
    """

    inputs: Tensors
    teachers: tuple[Tensors, ...] = ()
    keys: tuple[str, ...] = ()
    captioned: int | None = None
    bad: tuple[Bad, ...] = field(default=())
    checksum: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def captioned_count(self) -> int:
        """The number of samples whose texts are in the batch, if it holds texts."""
        return len(self) if self.captioned is None else self.captioned

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on a device."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; torch's DataLoader calls this."""
        return self.map(torch.Tensor.pin_memory)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The same batch with a function applied to every tensor."""
        inputs = {name: function(value) for name, value in self.inputs.items()}
        teachers = tuple({name: function(value) for name, value in entry.items()} for entry in self.teachers)
        return replace(self, inputs=inputs, teachers=teachers)


def joined(captioned: Batch, pictures: Batch) -> Batch:
    """One batch of captioned samples and of pictures without captions, in this order."""
    return Batch(
        inputs=joined_tensors(captioned.inputs, pictures.inputs),
        teachers=tuple(joined_tensors(*pair) for pair in zip(captioned.teachers, pictures.teachers, strict=True)),
        keys=captioned.keys + pictures.keys,
        captioned=len(captioned),
        bad=captioned.bad + pictures.bad,
        checksum=captioned.checksum + pictures.checksum,
    )


def joined_tensors(first: Tensors, second: Tensors) -> dict[str, torch.Tensor]:
    """Tensors by name, joined along their rows; what only the first has stays as it is."""
    return {name: torch.cat([value, second[name]]) if name in second else value for name, value in first.items()}


def in_sample_order(parts: Sequence[torch.Tensor], size: int, captioned: int) -> torch.Tensor:
    """The rows of several batches as those of one: first those of captioned samples, then the others.

    Args:
        parts: the rows of each batch, ``size`` of all its samples or ``captioned`` of its captioned ones.
        size: the number of samples in each batch.
        captioned: the number of captioned samples in each batch.
    """
    if len(parts) == 1:
        return parts[0]
    if len(parts[0]) < size or captioned == size:
        return torch.cat(list(parts))
    return torch.cat([*(part[:captioned] for part in parts), *(part[captioned:] for part in parts)])


def rows_of_part(rows: torch.Tensor, number: int, count: int, size: int, captioned: int) -> torch.Tensor:
    """The rows of batch ``number`` of ``count``, of what :func:`in_sample_order` made of all."""
    own = len(rows) // count
    if own < size or captioned == size:
        return rows[number * own : (number + 1) * own]
    pictures = rows[count * captioned :].view(count, size - captioned, *rows.shape[1:])
    return torch.cat([rows[number * captioned : (number + 1) * captioned], pictures[number]])
