"""A teacher in memory: frozen, in evaluation mode, deaf to gradients."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import torch
from torch import nn

from teachers.card import Card


class Teacher(nn.Module):
    """The frozen third tower's encoder ``p``: pixels in, [n, P] embeddings out; see TextTeacher for texts.

    Attributes:
        card: what it is.
        net: the timm network, without its classifier unless it was loaded for its logits.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, card: Card, net: nn.Module) -> None:
        super().__init__()
        self.card = card
        self.net = net.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode: a teacher's batch statistics never move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, image_size, image_size] uint8 RGB → [n, P] float32, or [n, classes] logits."""
        embedding: torch.Tensor = self.net((pixels.float() / 255 - self.mean) / self.std)
        return embedding.float()

    def fingerprint(self) -> str:
        """SHA-256 of the weights, names and shapes: with architecture and options, what it computes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


T = TypeVar("T", bound=Teacher)


def tried(teacher: T, example: torch.Tensor, width: int, advice: str) -> T:
    """The teacher, after one image or text has gone through it.

    Args:
        teacher: any.
        example: a batch of one.
        width: of the vector that is to come out.
        advice: what to do if the example is refused.

    Raises:
        ValueError: if it does not take the example, or makes something else of it.
    """
    what = f"{example.shape[-1]}-pixel images" if teacher.card.modality == "image" else f"{example.shape[-1]} tokens"
    try:
        out = teacher(example)
    except Exception as error:  # the forward of an arbitrary network
        raise ValueError(f"The teacher '{teacher.card.name}' does not take {what}: {error}. {advice}") from error
    if out.shape != (1, width):
        raise ValueError(
            f"The teacher '{teacher.card.name}' makes {tuple(out.shape)} of one {teacher.card.modality}, where its "
            f"card promises (1, {width}). Correct the card."
        )
    return teacher
