"""open_clip's own text tower: CLIP's Transformer over byte pairs, which looks back only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from students.bpe_tokenizer import COMMAND, BytePairTokenizer
from students.open_clip_checkpoint import NAMES, read_options, read_state
from students.optional import import_library
from students.text_tower import OptionsLike, TextTower


class OpenClipOptions(OptionsLike):
    """The sizes of open_clip's text tower; those that are not set are of what it starts from, or as shown.

    Attributes:
        context: number of tokens of a text, start and end included; longer texts are cut off, shorter ones padded.
        width: the width of its tokens, a multiple of ``heads``.
        heads: number of attention heads.
        layers: number of layers.
        mlp: the width of each layer's MLP, as a multiple of ``width``.
        pool: which token becomes the embedding: "argmax", the end of the text, whose id is the highest; "first" or
            "last".
        causal: whether tokens attend to themselves and those before them only.
        quick_gelu: whether the MLPs have OpenAI's approximation of GELU, as its own CLIP models do.
    """

    context: int = Field(default=77, gt=0)
    width: int = Field(default=512, gt=0)
    heads: int = Field(default=8, gt=0)
    layers: int = Field(default=12, gt=0)
    mlp: float = Field(default=4.0, gt=0)
    pool: Literal["argmax", "first", "last"] = "argmax"
    causal: bool = True
    quick_gelu: bool = False


class OpenClipText(TextTower):
    """``open_clip.transformer.TextTransformer`` with a linear projection, in open_clip's names.

    CLIP's text tower (arXiv 2103.00020, section 2.4).
    """

    Options = OpenClipOptions
    Tokenizer = BytePairTokenizer
    TAKEN = ("context", "width", "heads", "layers", "mlp", "pool", "causal", "quick_gelu")

    attn_mask: torch.Tensor | None

    def __init__(self, options: OpenClipOptions, vocab: int, width: int) -> None:
        super().__init__(options, vocab, width)
        if options.width % options.heads:
            raise ValueError(
                f"A width of {options.width} is no multiple of {options.heads} heads. Correct student.text.width or "
                "student.text.heads."
            )
        library = import_library("open_clip.transformer", "open_clip", COMMAND)
        net = library.TextTransformer(
            context_length=options.context,
            vocab_size=vocab,
            width=options.width,
            heads=options.heads,
            layers=options.layers,
            mlp_ratio=options.mlp,
            output_dim=width,
            no_causal_mask=not options.causal,
            pool_type=options.pool,
            proj_bias=True,
            act_layer=library.QuickGELU if options.quick_gelu else nn.GELU,
        )
        # Its parts are this tower's own, so that they have open_clip's names here too.
        self.token_embedding, self.positional_embedding = net.token_embedding, net.positional_embedding
        self.transformer, self.ln_final, self.text_projection = net.transformer, net.ln_final, net.text_projection
        self.register_buffer("attn_mask", net.attn_mask, persistent=False)
        self.pool = options.pool

    @classmethod
    def describe(cls, options: OpenClipOptions) -> str:  # type: ignore[override]
        return f"{options.layers}-layer Transformer of open_clip"

    @classmethod
    def options_of(cls, path: Path | None) -> dict[str, Any]:
        return read_options(path) if path is not None else OpenClipOptions().model_dump(include=set(cls.TAKEN))

    @classmethod
    def tokenizer_of(cls, path: Path | None, context: int) -> BytePairTokenizer:
        tokenizer = BytePairTokenizer.packaged(context)
        tokens = len(read_state(path)["token_embedding.weight"]) if path is not None else tokenizer.vocab
        if tokens != tokenizer.vocab:
            raise ValueError(
                f"The text tower in {path} has {tokens} tokens and open_clip's own tokenizer {tokenizer.vocab}: "
                "it has another tokenizer. Name another as student.text.init."
            )
        return tokenizer

    @classmethod
    def read(cls, path: Path) -> dict[str, torch.Tensor]:
        return read_state(path)

    @classmethod
    def open_clip_config(cls, options: OpenClipOptions, vocab: int) -> dict[str, Any]:  # type: ignore[override]
        if options.quick_gelu:
            raise ValueError(
                "open_clip sets quick_gelu for a whole model and not for its text tower, whose configuration is all "
                "that this tower gives"
            )
        own = {key: getattr(options, option) for option, key in NAMES.items()}
        return own | {"vocab_size": vocab, "no_causal_mask": not options.causal, "proj_bias": True}

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        """[n, context] int64 token ids → "embedding" [n, D], "tokens" [n, context, W]."""
        length = inputs.shape[1]
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length]
        x = self.token_embedding(inputs) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, attn_mask=mask))
        if self.pool == "argmax":
            end = inputs.argmax(dim=1)
            pooled = x.gather(1, end[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        else:
            pooled = x[:, 0 if self.pool == "first" else -1]
        return self.chosen({"embedding": self.text_projection(pooled), "tokens": x}, outputs)

    def widths(self) -> dict[str, int]:
        return {"embedding": self.text_projection.out_features, "tokens": self.text_projection.in_features}

    def projection(self) -> str:
        return "text_projection"


TEXT_TOWER = OpenClipText
