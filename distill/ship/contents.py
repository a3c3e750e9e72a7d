"""The content of an export, in any format."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distill.ship.config_file import Config
from students import Tokenizer


@dataclass(frozen=True)
class Shipped:
    """The students of a run, ready to be written or loaded.

    Attributes:
        config: how to build the towers, and how they were trained.
        tensors: ``image.*`` and, with a text tower, ``text.*``, on the CPU.
        tokenizer: the text tower's; None if there is no text tower.
    """

    config: Config
    tensors: dict[str, torch.Tensor]
    tokenizer: Tokenizer | None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of its towers."""
        return ("image", "text") if self.config.text else ("image",)

    def tower(self, modality: str) -> dict[str, torch.Tensor]:
        """The state dict of one tower."""
        start = f"{modality}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}
