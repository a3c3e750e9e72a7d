"""Contrastive training of an image and a text tower without transfer."""

from __future__ import annotations

import torch

from losses.objective import Embeddings, Objective


class Contrastive(Objective):
    """``L_{f↔g}`` alone: CLIP from scratch, or LiT if the image tower is the frozen teacher; SigLIP and SigLiT
    with ``pair = "sigmoid"``."""

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        return {"loss": self.pairing(embeddings.gathered["image"], embeddings.gathered["text"], embeddings)}


OBJECTIVE = Contrastive
