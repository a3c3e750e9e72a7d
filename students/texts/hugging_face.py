"""Text towers of transformers: BERT and MiniLM, CLIP's and SigLIP's, built like a folder, perhaps with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from students.hugging_face_folder import (
    BERT,
    CLIP,
    COMMAND,
    LONGEST,
    family_of,
    network_config,
    read_config,
    read_pool,
    read_weights,
)
from students.hugging_face_tokenizer import HuggingFaceTokenizer
from students.optional import import_library
from students.text_tower import OptionsLike, TextTower

ARGMAX_EOS = 2  # eos_token_id of CLIP's first configurations, of which transformers takes the highest id instead


class HuggingFaceOptions(OptionsLike):
    """What a text tower of transformers has otherwise than the one it is built like.

    Attributes:
        context: number of tokens of a text, special ones included; longer texts are cut off, shorter ones padded. 0:
            all positions of the tower it is built like, but of BERT at most 64.
        layers: number of layers; 0: as many as there.
        width: the width of its tokens, a multiple of ``heads``; 0: as there.
        heads: number of attention heads; 0: as there.
        mlp: the width of each layer's MLP, in numbers; 0: as there.
        pool: how tokens become one embedding: "mean" of all that are no padding; BERT's "cls", the first token; CLIP's
            "eos", the end of the text; SigLIP's "last", at the end of the padding. "": as there.
        config: the configuration of transformers, which ``like`` or ``init`` gives; runs and exports contain it.
    """

    context: int = Field(default=0, ge=0)
    layers: int = Field(default=0, ge=0)
    width: int = Field(default=0, ge=0)
    heads: int = Field(default=0, ge=0)
    mlp: int = Field(default=0, ge=0)
    pool: Literal["", "mean", "cls", "eos", "last"] = ""
    config: dict[str, Any] = {}

    def changed(self) -> dict[str, Any]:
        """The configuration with these options."""
        own = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "intermediate_size": self.mlp,
        }
        return self.config | {key: value for key, value in own.items() if value}


class HuggingFaceText(TextTower):
    """BERT's, CLIP's or SigLIP's text encoder from transformers, pooled, and a linear layer to the embedding.

    "Pre-trained" of LiT's text towers (arXiv 2111.07991, section 5.5) is ``init``. The projection that CLIP and SigLIP
    have of their own is kept where it has the student's width.
    """

    Options = HuggingFaceOptions
    Tokenizer = HuggingFaceTokenizer
    TAKEN = ("config", "context", "pool")

    def __init__(self, options: HuggingFaceOptions, vocab: int, width: int) -> None:
        super().__init__(options, vocab, width)
        if not options.config:
            raise ValueError(NO_SOURCE)
        config = network_config(options.changed())
        self.family, self.pool = family_of(options.config), options.pool or family_of(options.config).pools[0]
        self.pad, self.end = config.pad_token_id, config.eos_token_id
        check(options, self.pool, config)
        if vocab > config.vocab_size:
            raise ValueError(
                f"The tokenizer has {vocab} tokens and the text tower {config.vocab_size}. They must be those of one "
                "folder: correct student.text.like or student.text.init."
            )
        # A pooler or a projection would have weights that are not used.
        extra = {"add_pooling_layer": False} if self.family is BERT else {}
        library = import_library("transformers", "hugging_face", COMMAND)
        try:
            self.net = getattr(library, self.family.network)(config, **extra)
        except Exception as error:  # the constructors raise many kinds
            raise ValueError(
                f"transformers cannot build this {self.family.name}: {error} Correct student.text."
            ) from error
        if hasattr(self.net, "head"):
            self.net.head = nn.Identity()
        self.head = nn.Linear(config.hidden_size, width)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def describe(cls, options: HuggingFaceOptions) -> str:  # type: ignore[override]
        config = options.changed()
        return (
            f"{config['num_hidden_layers']}-layer {family_of(config).name}" if config else "text tower of transformers"
        )

    @classmethod
    def options_of(cls, path: Path | None) -> dict[str, Any]:
        if path is None:
            raise ValueError(NO_SOURCE)
        config = read_config(path)
        family, positions = family_of(config), int(config["max_position_embeddings"])
        context = min(positions, LONGEST) if family is BERT else positions
        return {"config": config, "context": context, "pool": read_pool(path, family)}

    @classmethod
    def tokenizer_of(cls, path: Path | None, context: int) -> HuggingFaceTokenizer:
        if path is None:
            raise ValueError(NO_SOURCE)
        tokenizer, config = HuggingFaceTokenizer.of_folder(path, context), read_config(path)
        if tokenizer.vocab > config["vocab_size"]:
            raise ValueError(
                f"The tokenizer in {path} has {tokenizer.vocab} tokens and the text tower {config['vocab_size']}. "
                "Save them again, both of one model."
            )
        if family_of(config) is BERT and tokenizer.pad != config.get("pad_token_id"):
            raise ValueError(
                f"The tokenizer in {path} pads with {tokenizer.pad} and the text tower expects "
                f"{config.get('pad_token_id')}. Save them again, both of one model."
            )
        return tokenizer

    @classmethod
    def read(cls, path: Path) -> dict[str, torch.Tensor]:
        return read_weights(path)

    @classmethod
    def open_clip_config(cls, options: HuggingFaceOptions, vocab: int) -> dict[str, Any]:  # type: ignore[override]
        raise ValueError(
            "open_clip builds text towers of transformers by their names on the Hugging Face hub only, not from files "
            "beside the weights"
        )

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        """[n, context] int64 token ids → "embedding" [n, D], "tokens" [n, context, W]."""
        end = self.ends(inputs)
        read = self.read_positions(inputs, end)
        # CLIP looks back only, so that padding after the end changes nothing; SigLIP was trained with its padding.
        mask = read.long() if self.family is BERT else None
        hidden = self.net(input_ids=inputs, attention_mask=mask).last_hidden_state
        if self.pool == "mean":
            keep = read.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
        elif self.pool == "eos":
            pooled = hidden.gather(1, end[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        else:
            pooled = hidden[:, 0 if self.pool == "cls" else -1]
        return self.chosen({"embedding": self.head(pooled), "tokens": hidden}, outputs)

    def ends(self, inputs: torch.Tensor) -> torch.Tensor:
        """[n]: the position of the first end-of-text token of each text; for BERT and SigLIP not used."""
        if self.end == ARGMAX_EOS or self.end is None:
            return inputs.argmax(dim=1)
        return (inputs == self.end).int().argmax(dim=1)

    def read_positions(self, inputs: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """[n, context]: the tokens that are pooled: BERT's without padding, CLIP's up to the end, all of SigLIP's."""
        if self.family is BERT:
            return inputs != self.pad
        if self.family is CLIP:
            return torch.arange(inputs.shape[1], device=inputs.device) <= end[:, None]
        return torch.ones_like(inputs, dtype=torch.bool)

    def widths(self) -> dict[str, int]:
        return {"embedding": self.head.out_features, "tokens": self.head.in_features}

    def projection(self) -> str:
        return "head"


NO_SOURCE = (
    'The text tower "hugging_face" is built like a folder that transformers has saved. Set student.text.like or '
    "student.text.init to it, or to the name of a text teacher's card."
)


def check(options: HuggingFaceOptions, pool: str, config: Any) -> None:
    """Raise ``ValueError`` if a tower does not have a pooling, or so many positions or heads."""
    family = family_of(options.config)
    if pool not in family.pools:
        raise ValueError(
            f"A {family.name} pools by {' or '.join(family.pools)}, not by {pool}. Correct student.text.pool."
        )
    if options.context > config.max_position_embeddings:
        raise ValueError(
            f"This {family.name} has {config.max_position_embeddings} positions, and student.text.context is "
            f"{options.context}. Set a smaller one."
        )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"A width of {config.hidden_size} is no multiple of {config.num_attention_heads} heads. Correct "
            "student.text.width or student.text.heads."
        )


TEXT_TOWER = HuggingFaceText
