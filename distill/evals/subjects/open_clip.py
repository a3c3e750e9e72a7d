"""Models of open_clip: ``open_clip/ARCH@WEIGHTS``, a tag, a file or nothing; ``open_clip/local-dir:DIR``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from distill.errors import UserError
from distill.evals.subject import BATCH, OpenOptions, Prepare, Subject
from distill.tensors import hash_tensors
from launch.group import default_device

START = "open_clip/"
MISSING = "It comes with the extra: pip install 'distill[open-clip]'."


class OpenClip(Subject):
    """A model of open_clip with its own preprocessing and tokenizer."""

    rank = 10

    def __init__(self, name: str, model: Any, prepare: Prepare, tokenizer: Any, device: torch.device) -> None:
        self.name, self.prepare, self.tokenizer, self.device = name, prepare, tokenizer, device
        self.model = model.to(device).eval()
        self.temperature = 1 / float(model.logit_scale.detach().exp())

    @classmethod
    def recognises(cls, name: str) -> bool:
        return name.startswith(START)

    @classmethod
    def open(cls, name: str, options: OpenOptions) -> OpenClip:
        try:
            import open_clip
        except ImportError as error:
            raise UserError("Models of open_clip need the package open_clip_torch.", MISSING) from error
        arch, _, weights = name.removeprefix(START).partition("@")
        device = torch.device(options.device) if options.device else default_device()
        try:
            model, _, prepare = open_clip.create_model_and_transforms(arch, pretrained=weights or None)
            return cls(name, model, prepare, open_clip.get_tokenizer(arch), device)
        except Exception as error:  # of its loading, with its own messages
            raise UserError(
                f"open_clip cannot load '{name.removeprefix(START)}': {error}.",
                "Write open_clip/ARCH@TAG, open_clip/ARCH@FILE or open_clip/local-dir:FOLDER.",
            ) from error

    def identity(self) -> str:
        return hash_tensors(self.model.state_dict(), self.name, self.prepare)

    def preparations(self) -> Sequence[Prepare]:
        return [self.prepare]

    @torch.inference_mode()
    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        # Its towers do not give their pre-logits, so that classifiers are trained on the embedding.
        found = self.model.encode_image(inputs[0].to(self.device)).float().cpu()
        return {"embedding": torch.nn.functional.normalize(found, dim=1), "pre_logits": found}

    @property
    def has_text(self) -> bool:
        return True

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        parts = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        rows = [self.model.encode_text(self.tokenizer(list(part)).to(self.device)).float().cpu() for part in parts]
        return torch.nn.functional.normalize(torch.cat(rows), dim=1)


SUBJECT = OpenClip
