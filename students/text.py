"""Text towers: a small pre-norm Transformer with attention pooling."""

from __future__ import annotations

import difflib
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from students.tower import Tower

PAD = 0  # the token id that means "no token"; data/captions.py trains its SentencePiece models with it


class TextSpec(BaseModel):
    """What a text tower is. ``context`` is in tokens, ``mlp`` is the MLP's expansion factor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str = "transformer"
    dim: int = Field(default=192, gt=0)
    depth: int = Field(default=3, gt=0)
    heads: int = Field(default=3, gt=0)
    mlp: float = Field(default=4.0, gt=0)
    context: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    pool: Literal["map", "mean"] = "map"

    @model_validator(mode="after")
    def heads_divide_dim(self) -> TextSpec:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class TextTransformer(Tower):
    """Bidirectional Transformer over SentencePiece tokens, pooled by one learned query (MAP) or by the mean.

    The text tower of the paper is "a ViT whose patching is replaced by SentencePiece" (arXiv 2305.16999
    §3), pooled by an attention block with one latent query (its appendix F).
    """

    def __init__(self, spec: TextSpec, vocab: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, spec.dim)
        self.positions = nn.Parameter(torch.randn(spec.context, spec.dim) * spec.dim**-0.5)
        block = nn.TransformerEncoderLayer(
            spec.dim,
            spec.heads,
            round(spec.mlp * spec.dim),
            dropout=spec.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, spec.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(spec.dim)
        self.pool = AttentionPool(spec.dim, spec.heads) if spec.pool == "map" else MeanPool()
        self.head = nn.Linear(spec.dim, width)
        self.apply(start)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, context] int64 token ids, padded with ``PAD`` → [n, D]."""
        padding = tokens == PAD
        # A row of nothing but padding would make attention divide by zero: let it see its first pad.
        padding[:, 0] = False
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        x = self.norm(self.blocks(x, src_key_padding_mask=padding))
        embedding: torch.Tensor = self.head(self.pool(x, padding))
        return embedding

    def projection(self) -> str:
        return "head"


def start(module: nn.Module) -> None:
    """Initial weights as in big_vision: Xavier, no biases, embeddings of about unit length.

    torch's own leave the text embedding dominated by the last layer's bias: all captions begin side by side.
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
        query = self.query.expand(len(x), -1, -1)
        pooled = self.attention(query, x, x, key_padding_mask=padding, need_weights=False)[0]
        out: torch.Tensor = (pooled + self.mlp(self.norm(pooled)))[:, 0]
        return out


class MeanPool(nn.Module):
    """The mean over tokens that are not padding."""

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """[n, T, dim] and [n, T] (true where padded) → [n, dim]."""
        keep = (~padding).unsqueeze(-1).to(x.dtype)
        return (x * keep).sum(dim=1) / keep.sum(dim=1)


ARCHITECTURES = {"transformer": TextTransformer}


def text_tower(spec: TextSpec, vocab: int, width: int) -> Tower:
    """Build a text tower with random weights.

    Args:
        spec: architecture and sizes.
        vocab: number of token ids.
        width: D, the embedding width.

    Raises:
        LookupError: if there is no such architecture; the message names the nearest one.
    """
    if spec.arch not in ARCHITECTURES:
        near = difflib.get_close_matches(spec.arch, ARCHITECTURES, n=1) or list(ARCHITECTURES)
        raise LookupError(f"There is no text architecture '{spec.arch}'. Did you mean {' or '.join(near)}?")
    return ARCHITECTURES[spec.arch](spec, vocab, width)
