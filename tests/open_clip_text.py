"""A text tower for tests: open_clip's own TextTransformer and its tokenizer, installed like a plugin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip import SimpleTokenizer
from open_clip.transformer import TextTransformer

from students import TextOptions, TextTower, Tokenizer

ENTRY_POINTS = "[distill.text_towers]\nopen_clip_of_tests = open_clip_text:OpenClipText\n"


def install(folder: Path) -> None:
    """Make a folder one that, on ``sys.path``, brings the text tower as an installed package does."""
    about = folder / "open_clip_text-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: open_clip_text\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)


class Bpe(Tokenizer):
    """The tokenizer of CLIP, which comes with open_clip."""

    FILE, KIND = "bpe.txt", "note that texts are tokenized by open_clip's SimpleTokenizer"

    def __init__(self, context: int) -> None:
        self.model, self.context = b"open_clip.SimpleTokenizer\n", context
        self.tokenizer = SimpleTokenizer(context_length=context)

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> Bpe:
        return cls(context)

    @classmethod
    def load(cls, path: Path, context: int) -> Bpe:
        return cls(context)

    @property
    def vocab(self) -> int:
        return int(self.tokenizer.vocab_size)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        return self.tokenizer(list(texts))


class Options(TextOptions):
    dim: int = 32
    depth: int = 2
    heads: int = 2


class OpenClipText(TextTower, TextTransformer):
    """open_clip's text Transformer."""

    Options, Tokenizer = Options, Bpe

    def __init__(self, options: Options, vocab: int, width: int) -> None:
        TextTransformer.__init__(
            self, options.context, vocab, options.dim, options.heads, options.depth, 4.0, None, width
        )

    @classmethod
    def open_clip_config(cls, options: Options, vocab: int) -> dict[str, Any]:  # type: ignore[override]
        sizes = {"width": options.dim, "heads": options.heads, "layers": options.depth}
        return {"context_length": options.context, "vocab_size": vocab, **sizes}

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        return self.chosen({"embedding": TextTransformer.forward(self, inputs)}, outputs)
