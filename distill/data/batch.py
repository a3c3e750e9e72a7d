"""Batches: the input of a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        bad: samples that could not be used and were replaced by others.
        checksum: sum of a checksum of each sample; if the sums of two runs are equal, they have used the same samples.
    """

    inputs: Tensors
    teachers: tuple[Tensors, ...] = ()
    keys: tuple[str, ...] = ()
    bad: tuple[Bad, ...] = field(default=())
    checksum: int = 0

    def __len__(self) -> int:
        return len(self.keys)

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
