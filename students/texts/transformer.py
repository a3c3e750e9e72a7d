"""The text Transformer: small, pre-norm, with attention pooling, over SentencePiece tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from students.sentencepiece_tokenizer import SentencePieceTokenizer
from students.text_tower import TextOptions, TextTower

PAD = SentencePieceTokenizer.PAD
# Of ViT: B, L and H as in arXiv 2010.11929, Table 1; Ti, S and g as in arXiv 2106.04560, Table 2.
SIZES: dict[str, dict[str, Any]] = {
    "Ti": {"dim": 192, "depth": 12, "heads": 3},
    "S": {"dim": 384, "depth": 12, "heads": 6},
    "B": {"dim": 768, "depth": 12, "heads": 12},
    "L": {"dim": 1024, "depth": 24, "heads": 16},
    "H": {"dim": 1280, "depth": 32, "heads": 16},
    "g": {"dim": 1408, "depth": 40, "heads": 16, "mlp": 6144 / 1408},
}


class TransformerOptions(TextOptions):
    """The sizes of the text Transformer.

    Attributes:
        size: dim, depth, heads and mlp of a ViT at once, where they are not set themselves: "Ti", "S", "B", "L", "H"
            or "g"; "" leaves them as they are. LiT's text towers have those of B, L and H (arXiv 2111.07991, sections
            5.5 and 5.6).
        dim: the width of its tokens, a multiple of ``heads``.
        depth: number of layers.
        heads: number of attention heads, in each layer and in the pooling.
        mlp: the width of each layer's MLP, as a multiple of ``dim``.
        dropout: share of the activations, 0 to below 1, that are set to zero while training.
        pool: how tokens become one embedding: "map", attention with one learned query; "mean", the mean over them; or
            "last", the last one that is no padding.
    """

    size: Literal["", "Ti", "S", "B", "L", "H", "g"] = ""
    dim: int = Field(default=192, gt=0)
    depth: int = Field(default=3, gt=0)
    heads: int = Field(default=3, gt=0)
    mlp: float = Field(default=4.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    pool: Literal["map", "mean", "last"] = "map"

    @model_validator(mode="before")
    @classmethod
    def of_size(cls, values: Any) -> Any:
        known = isinstance(values, dict) and isinstance(values.get("size"), str)
        return SIZES.get(values["size"], {}) | values if known else values

    @model_validator(mode="after")
    def heads_divide_dim(self) -> TransformerOptions:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class TextTransformer(TextTower):
    """Bidirectional Transformer over SentencePiece tokens, pooled by a learned query (MAP), the mean or the last.

    The text tower of the paper is "a ViT whose patching is replaced by SentencePiece" (arXiv 2305.16999
    §3), pooled by an attention block with one latent query (its appendix F).
    """

    Options = TransformerOptions
    Tokenizer = SentencePieceTokenizer

    def __init__(self, options: TransformerOptions, vocab: int, width: int) -> None:
        super().__init__(options, vocab, width)
        self.tokens = nn.Embedding(vocab, options.dim)
        self.positions = nn.Parameter(torch.randn(options.context, options.dim) * options.dim**-0.5)
        block = nn.TransformerEncoderLayer(
            options.dim,
            options.heads,
            round(options.mlp * options.dim),
            dropout=options.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, options.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(options.dim)
        self.pool = pool_of(options)
        self.head = nn.Linear(options.dim, width)
        self.apply(initialize)

    @classmethod
    def describe(cls, options: TransformerOptions) -> str:  # type: ignore[override]
        return f"{options.depth}-layer Transformer"

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        """[n, context] int64 token ids, padded with ``PAD`` → "embedding" [n, D], "tokens" [n, context, dim]."""
        padding = inputs == PAD
        # A text without tokens would make attention divide by zero, so it attends to its first padding token.
        padding[:, 0] = False
        x = self.tokens(inputs) + self.positions[: inputs.shape[1]]
        x = self.norm(self.blocks(x, src_key_padding_mask=padding))
        return self.chosen({"embedding": self.head(self.pool(x, padding)), "tokens": x}, outputs)

    def widths(self) -> dict[str, int]:
        return {"embedding": self.head.out_features, "tokens": self.head.in_features}

    def projection(self) -> str:
        return "head"


def pool_of(options: TransformerOptions) -> nn.Module:
    """What makes one embedding of tokens: called with [n, T, dim] and [n, T] (true where padded), returns [n, dim]."""
    if options.pool == "map":
        return AttentionPool(options.dim, options.heads)
    return MeanPool() if options.pool == "mean" else LastPool()


def initialize(module: nn.Module) -> None:
    """Initialise weights as in big_vision: Xavier weights, zero biases, embeddings of about unit length.

    With torch's initialisation the last layer's bias dominates, so that the embeddings of all captions start close to
    each other.
    """
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.xavier_uniform_(module.in_proj_weight)
        nn.init.zeros_(module.in_proj_bias)


class AttentionPool(nn.Module):
    """Multi-head attention with one learned query, then a residual MLP (big_vision's MAP head)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """[n, T, dim] and [n, T] (true where padded) → [n, dim]."""
        query = self.query.expand(x.shape[0], -1, -1)  # len() would make it a constant in torch.export
        pooled = self.attention(query, x, x, key_padding_mask=padding, need_weights=False)[0]
        out: torch.Tensor = (pooled + self.mlp(self.norm(pooled)))[:, 0]
        return out


class MeanPool(nn.Module):
    """The mean over tokens that are not padding."""

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """[n, T, dim] and [n, T] (true where padded) → [n, dim]."""
        keep = (~padding).unsqueeze(-1).to(x.dtype)
        return (x * keep).sum(dim=1) / keep.sum(dim=1)


class LastPool(nn.Module):
    """The last token that is not padding."""

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """[n, T, dim] and [n, T] (true where padded) → [n, dim]."""
        positions = torch.arange(x.shape[1], device=x.device)
        last = (positions * ~padding).amax(dim=1)
        return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


TEXT_TOWER = TextTransformer
