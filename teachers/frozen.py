"""A teacher in memory: frozen, in evaluation mode, deaf to gradients."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from teachers.card import Card


class Teacher(nn.Module):
    """The frozen third tower's encoder ``p``: pixels in, [n, P] embeddings out.

    Attributes:
        card: what it is.
        net: the timm network without its classifier.
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
        """[n, 3, image_size, image_size] uint8 RGB → [n, P] float32."""
        embedding: torch.Tensor = self.net((pixels.float() / 255 - self.mean) / self.std)
        return embedding.float()

    def fingerprint(self) -> str:
        """SHA-256 of the weights, names and shapes: equal if and only if the network computes the same."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load(card: Card, image_size: int = 0) -> Teacher:
    """Load a teacher's weights, strictly.

    Args:
        card: which one.
        image_size: side of the images it will be given, in pixels, to be tried out here; 0: the card's.

    Raises:
        ImportError: if the package that carries the weights is not installed; the message says what to run.
        ConnectionError: if the weights are on the hub and it cannot be reached.
        ValueError: if the weights do not fit the architecture, or the architecture not the image size.
    """
    import timm

    if card.weights is None:
        try:
            net = timm.create_model(card.arch, pretrained=True, num_classes=0)
        except Exception as error:  # huggingface_hub, urllib and safetensors raise a dozen kinds
            raise ConnectionError(
                f"The weights of '{card.name}' could not be fetched ({card.source}): {error}. "
                "Run once where the hub can be reached, or set HF_HOME to a folder that already holds them."
            ) from error
        return tried(Teacher(card, net), image_size)
    net = timm.create_model(card.arch, pretrained=False)
    try:
        net.load_state_dict(card.weights(), strict=True)
    except RuntimeError as error:
        raise ValueError(f"The weights of '{card.name}' are not those of '{card.arch}': {error}") from error
    net.reset_classifier(0)  # type: ignore[operator]
    return tried(Teacher(card, net), image_size)


def tried(teacher: Teacher, image_size: int) -> Teacher:
    """The teacher, after one black image has gone through it.

    Raises:
        ValueError: if it does not take that size.
    """
    side = image_size or teacher.card.image_size
    try:
        teacher(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    except Exception as error:  # the forward of an arbitrary network
        raise ValueError(
            f"The teacher '{teacher.card.name}' does not take {side}-pixel images: {error}. "
            f"Leave out teacher.N.image_size: its own is {teacher.card.image_size}."
        ) from error
    return teacher
