"""Batches: what one training step sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from distill.errors import Bad


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch, or a piece of it: n images with C captions each.

    Attributes:
        images: [n, 3, S, S] uint8, the student's view; [n, 0] where no student looks at images.
        tokens: [n, C, context] int64.
        teachers: one a teacher: embeddings [n, 1, P] float32, or what it makes them of: the same view as the
            student's at its own resolution, [n, 1, 3, s, s] uint8, or its own tokens, [n, C, context] int64.
        keys: n sample keys.
        mixed: [n, 3, S, S] uint8, each image mixed with its neighbour in the global batch, as are the pixels in
            ``teachers`` then; None where nothing is mixed.
        bad: samples that should have been in it and could not be used; others stand in for them.
        sum: a sum over the samples, by which two runs can be seen to have been shown the same.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    teachers: tuple[torch.Tensor, ...]
    keys: tuple[str, ...]
    mixed: torch.Tensor | None = None
    bad: tuple[Bad, ...] = ()
    sum: int = 0

    def to(self, device: torch.device) -> Batch:
        def move(x: torch.Tensor) -> torch.Tensor:
            return x.to(device, non_blocking=True)

        return self._each(move)

    def pin_memory(self) -> Batch:
        return self._each(torch.Tensor.pin_memory)

    def _each(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        mixed = None if self.mixed is None else move(self.mixed)
        teachers = tuple(move(teacher) for teacher in self.teachers)
        return replace(self, images=move(self.images), tokens=move(self.tokens), teachers=teachers, mixed=mixed)
