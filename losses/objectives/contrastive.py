"""One pair of towers and nothing else."""

from __future__ import annotations

import torch

from losses.objective import Embeddings, Objective


class Contrastive(Objective):
    """``L_{f↔g}`` alone: CLIP from scratch, LiT where the image tower is the frozen teacher; SigLIP and SigLiT
    with ``pair = "sigmoid"``."""

    def __call__(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        return {"loss": self.pairing(embeddings.gathered["image"], embeddings.gathered["text"], embeddings)}


OBJECTIVE = Contrastive
