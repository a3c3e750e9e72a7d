"""Batches: what one training step is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from distill.errors import Bad

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch, or a piece of it: n samples, with C captions each.

    Attributes:
        inputs: of the students, by modality, as far as the run has them: "image" [n, 3, S, S] uint8, the student's
            view; "text" [n, C, context] int64. Besides, "mixed" [n, 3, S, S] uint8 where the objective mixes images:
            each image mixed with its neighbour in the global batch.
        teachers: one entry a teacher. Of a teacher with a cache its outputs by name, [n, 1, …] float32; of one that
            runs online its input by modality: "image" [n, 1, 3, s, s] uint8, the student's view at the teacher's own
            resolution (mixed, where images are mixed), or "text" [n, C, context] int64, in its own tokens.
        keys: n sample keys.
        bad: samples that should have been in it and could not be used; others are shown in their place.
        sum: a sum over the samples: two runs with equal sums have been shown the same samples.
    """

    inputs: Tensors
    teachers: tuple[Tensors, ...] = ()
    keys: tuple[str, ...] = ()
    bad: tuple[Bad, ...] = field(default=())
    sum: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on a device."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; torch's loader calls this."""
        return self.map(torch.Tensor.pin_memory)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The same batch with every tensor changed in the same way."""
        inputs = {name: change(value) for name, value in self.inputs.items()}
        teachers = tuple({name: change(value) for name, value in own.items()} for own in self.teachers)
        return replace(self, inputs=inputs, teachers=teachers)
