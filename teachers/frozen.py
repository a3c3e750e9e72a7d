"""A loaded teacher: frozen, in evaluation mode, without gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from teachers.card import Card

EMBEDDING, LOGITS, TOKENS = "embedding", "logits", "tokens"  # the outputs a teacher may have


class Teacher(nn.Module):
    """The third tower's frozen encoder ``p``, from pixels to outputs by name; for texts see
    :class:`teachers.TextTeacher`.

    Attributes:
        card: the card of the teacher.
        net: the timm network, without its classifier unless it was loaded with the output "logits".
        outputs: the names of the outputs of a call: "embedding" [n, P], "logits" [n, C], "tokens" [n, T, W].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, card: Card, net: nn.Module, outputs: Sequence[str] = (EMBEDDING,)) -> None:
        super().__init__()
        self.card, self.outputs = card, tuple(outputs)
        self.net = net.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, so that the statistics of batch norms are never updated."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """[n, 3, image_size, image_size] uint8 RGB → its outputs by name, float32."""
        pixels = (inputs.float() / 255 - self.mean) / self.std
        if pixels.device.type == "cpu":
            # Convolutions on the CPU are then 1.7 to 1.9 times as fast; on an accelerator it has not been measured.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.outputs in ((EMBEDDING,), (LOGITS,)):
            return {self.outputs[0]: self.net(pixels).float()}
        features = self.net.forward_features(pixels)  # type: ignore[operator]
        compute = {
            EMBEDDING: lambda: self.net.forward_head(features, pre_logits=True),  # type: ignore[operator]
            LOGITS: lambda: self.net.forward_head(features),  # type: ignore[operator]
            TOKENS: lambda: as_tokens(features, int(self.net.num_features)),  # type: ignore[arg-type]
        }
        return {name: compute[name]().float() for name in self.outputs}

    def fingerprint(self) -> str:
        """SHA-256 of the names, dtypes, shapes and values of the state dict, in hexadecimal."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


T = TypeVar("T", bound=Teacher)


def check_example(teacher: T, example: torch.Tensor, widths: Mapping[str, int], advice: str) -> T:
    """Run one image or text through a teacher, and return the teacher.

    Args:
        teacher: the teacher.
        example: an input with batch size 1.
        widths: the expected widths of its outputs, by name; outputs that are not in here are not checked.
        advice: for the message, what to do if the teacher cannot take the example.

    Raises:
        ValueError: if it cannot take the example, or an output has another width.
    """
    what = f"{example.shape[-1]}-pixel images" if teacher.card.modality == "image" else f"{example.shape[-1]} tokens"
    try:
        outputs = teacher(example)
    except Exception as error:  # the forward of an arbitrary network
        raise ValueError(f"The teacher '{teacher.card.name}' does not take {what}: {error}. {advice}") from error
    for name, out in outputs.items():
        if name in widths and out.shape != (1, widths[name]):
            raise ValueError(
                f"The teacher '{teacher.card.name}' makes {tuple(out.shape)} of one {teacher.card.modality}, where "
                f"its card promises (1, {widths[name]}). Correct the card."
            )
    return teacher


def as_tokens(features: torch.Tensor, width: int) -> torch.Tensor:
    """[n, T, W] from a network's last features [n, T, W], or feature map [n, W, H', W'] or [n, H', W', W].

    Raises:
        ValueError: if they have another shape.
    """
    if features.ndim == 3 and features.shape[2] == width:
        return features
    if features.ndim == 4 and features.shape[1] == width:
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 4 and features.shape[3] == width:
        return features.flatten(1, 2)
    raise ValueError(f"Features of the shape {tuple(features.shape)} have no tokens of width {width}.")
