"""A convolutional text tower over bytes, with its own options and its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from students import TextOptions, TextTower, Tokenizer


class Bytes(Tokenizer):
    """A byte is a token; 0 pads."""

    FILE = "bytes.txt"
    KIND = "note that bytes are tokens"

    def __init__(self, context: int) -> None:
        self.context, self.model = context, b"bytes\n"

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> Bytes:
        return cls(context)

    @classmethod
    def load(cls, path: Path, context: int) -> Bytes:
        if path.read_bytes() != b"bytes\n":
            raise ValueError(f"{path} is not the file of a byte tokenizer. Export the run again.")
        return cls(context)

    @property
    def vocab(self) -> int:
        return 257

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        rows = torch.zeros(len(texts), self.context, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [1 + byte for byte in text.encode()[: self.context]]
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return rows


class ConvolutionalOptions(TextOptions):
    """The sizes of the convolutional tower.

    Attributes:
        channels: of the convolution.
        kernel: its width, in bytes; odd.
    """

    channels: int = Field(default=16, gt=0)
    kernel: int = Field(default=3, gt=0)


class Convolutional(TextTower):
    """One convolution, the maximum over the text, and a linear layer."""

    Options = ConvolutionalOptions
    Tokenizer = Bytes

    def __init__(self, options: ConvolutionalOptions, vocab: int, width: int) -> None:
        super().__init__(options, vocab, width)
        self.bytes = nn.Embedding(vocab, options.channels)
        self.convolution = nn.Conv1d(options.channels, options.channels, options.kernel, padding="same")
        self.head = nn.Linear(options.channels, width)

    @classmethod
    def describe(cls, options: ConvolutionalOptions) -> str:
        return f"convolution of {options.kernel} bytes"

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        found = self.convolution(self.bytes(inputs).transpose(1, 2)).amax(dim=2)
        return self.chosen({"embedding": self.head(found)}, outputs)

    def widths(self) -> dict[str, int]:
        return {"embedding": self.head.out_features}

    def projection(self) -> str:
        return "head"
