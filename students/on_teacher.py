"""Image towers around a locked teacher: LiT, LiT with a learned projection, FlexiLiT 1 and 2."""

from __future__ import annotations

import torch
from torch import nn

from students.image import ImageTower
from students.tower import Tower

EXPANSION = 4


class OnTeacher(Tower):
    """The trained layers on, and the trained network beside, a locked image model; empty in LiT.

    ``FlexiLiT-1(I) = MLP(LiT(I))`` and ``FlexiLiT-2(I) = MLP(concat(LiT(I), ViT(I)))``, with an MLP of four layers,
    GELU and an expansion of 4 (Three Towers, arXiv 2305.16999, section E.5). One layer is LiT's optional linear head
    (arXiv 2111.07991, section 3).

    Args:
        locked_width: P, the width of the locked model's embedding.
        width: D.
        layers: the layers of the MLP; 0 for none, which requires D = P and no network beside.
        beside: a trained image network that reads the same images as the locked one, without a projection.
        beside_width: the width of its pooled features.
    """

    def __init__(
        self, locked_width: int, width: int, layers: int, beside: ImageTower | None = None, beside_width: int = 0
    ) -> None:
        super().__init__()
        self.width, self.beside = width, beside
        self.mlp = mlp(locked_width + beside_width, width, layers)

    def forward(
        self,
        locked: torch.Tensor,
        pixels: torch.Tensor | None = None,
        outputs: tuple[str, ...] = ("embedding",),
    ) -> dict[str, torch.Tensor]:
        """[n, P] embeddings of the locked model, and [n, 3, S, S] uint8 for a network beside → outputs by name.

        "embedding" [n, D]; "pre_logits" [n, F], the input of the trained layers.
        """
        features = locked
        if self.beside is not None:
            assert pixels is not None, "a network beside the locked model needs images"
            features = torch.cat([locked, self.beside(pixels)["embedding"]], dim=1)
        return self.chosen({"embedding": self.mlp(features), "pre_logits": features}, outputs)

    def widths(self) -> dict[str, int]:
        return {"embedding": self.width}  # pre-logits are of the locked model, nothing to train on


class HalfLocked(nn.Module):
    """The locked model and the trained layers as one image tower, as in an export."""

    def __init__(self, locked: ImageTower, top: OnTeacher) -> None:
        super().__init__()
        self.locked, self.top = locked, top

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        """[n, 3, S, S] uint8 RGB → "embedding" [n, D], "pre_logits" [n, F]."""
        return self.top(self.locked(inputs)["embedding"].float(), inputs, outputs)


def mlp(width: int, out: int, layers: int) -> nn.Sequential:
    """Linear layers with GELU between them; they expand the width by 4 and restore it in turn, and end in ``out``."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        width_in = width if layer % 2 == 0 else EXPANSION * width
        width_out = out if layer == layers - 1 else EXPANSION * width if layer % 2 == 0 else width
        parts += [nn.Linear(width_in, width_out), nn.GELU()]
        nn.init.normal_(parts[-2].weight, std=width_in**-0.5)  # type: ignore[arg-type]
        nn.init.zeros_(parts[-2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*parts[:-1])
