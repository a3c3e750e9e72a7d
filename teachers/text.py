"""Text teachers: pretrained sentence encoders, frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from teachers.card import Card
from teachers.folder import import_library, load_json, pad_token_id, pooling_mode
from teachers.frozen import EMBEDDING, TOKENS, Teacher, check_example


class TextTeacher(Teacher):
    """A frozen text encoder, from token ids to "embedding" [n, P], not normalised, and "tokens" [n, context, P].

    Attributes:
        card: the card of the teacher.
        net: the transformers network without its pooler, which sentence encoders do not use.
        pad: the id of the padding token.
        pooling: "mean" over the tokens, or "cls" for the first token.
    """

    def __init__(
        self, card: Card, net: nn.Module, pad: int, pooling: str, outputs: Sequence[str] = (EMBEDDING,)
    ) -> None:
        super().__init__(card, net, outputs)
        self.pad, self.pooling = pad, pooling

    @torch.no_grad()
    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """[n, context] int64 token ids of the card's tokenizer → outputs by name, float32; zeros at padding."""
        mask = inputs != self.pad
        # Captions use a fraction of the context, so columns that are padding in every text are not computed.
        length = max(1, int((mask.any(0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).max()))
        tokens, mask = inputs[:, :length], mask[:, :length]
        hidden: torch.Tensor = self.net(input_ids=tokens, attention_mask=mask.long())[0].float()
        mask = mask[:, :, None]
        if self.pooling == "cls":
            embedding = hidden[:, 0] * mask[:, 0]
        else:
            embedding = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        computed = {EMBEDDING: embedding}
        if TOKENS in self.outputs:
            computed[TOKENS] = nn.functional.pad(hidden * mask, (0, 0, 0, inputs.shape[1] - length))
        return {name: computed[name] for name in self.outputs}


class TextTower(Teacher):
    """The frozen text tower of a CLIP or SigLIP, from token ids to "embedding" [n, P], not normalised."""

    @torch.no_grad()
    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """[n, context] int64 token ids of the card's tokenizer → its embedding, float32."""
        return {EMBEDDING: self.net(inputs).float()}


def load_folder(card: Card, folder: Path, outputs: Sequence[str] = (EMBEDDING,)) -> TextTeacher:
    """Load the text teacher in a folder, see ``teachers/folder.py``; downloads nothing and reads no pickle.

    Raises:
        ImportError: if transformers is not installed; the message says what to run.
        ValueError: if the folder does not hold a sentence encoder, or another one than the card describes.
    """
    transformers = import_library("transformers", card)
    pad, pooling = pad_token_id(folder), pooling_mode(folder)
    arch = load_json(folder / "config.json", dict).get("model_type")
    if arch != card.arch:
        raise ValueError(f"{folder} holds the architecture '{arch}', where '{card.name}' is '{card.arch}'.")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        net = transformers.AutoModel.from_config(config, trust_remote_code=False).float()
    except Exception as error:  # each architecture raises its own errors for wrong settings
        raise ValueError(f"transformers cannot build what {folder / 'config.json'} describes: {error}") from error
    if getattr(net, "pooler", None) is not None:
        net.pooler = None
    try:
        net.load_state_dict(weights(folder), strict=True)
    except RuntimeError as error:
        raise ValueError(f"The weights of '{card.name}' are not those of {folder / 'config.json'}: {error}") from error
    token = 1 if pad == 0 else 0  # any token but padding
    example = torch.full((1, card.context), token)
    teacher = TextTeacher(card, net, pad, pooling, outputs)
    return check_example(teacher, example, {EMBEDDING: card.width}, "Give its card a smaller context.")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Load the state dict in a folder, without the pooler, and without ``position_ids``, which older versions saved.

    Raises:
        ValueError: if ``model.safetensors`` is missing or damaged.
    """
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}. Only safetensors are read.") from error
    return {k: v for k, v in state.items() if not k.startswith("pooler.") and not k.endswith(".position_ids")}
