"""The trained model: two towers, the spaces where they meet teachers, temperature and bias."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from distill.train.spaces import Head, Rows, spaces, unit
from losses import Needs
from losses.objectives import HEADS, Facts
from students import OnTeacher, Tower

MAX_SCALE = 100.0  # CLIP's bound on 1/τ (arXiv 2103.00020, section 2.5)
MAX_LOG_SCALE = math.log(MAX_SCALE)


class Model(nn.Module):
    """Everything that is trained.

    Args:
        image: the image student, or what is learned on top of the first teacher (nothing, in LiT).
        text: the text student.
        width: D.
        teachers: what is known of every teacher.
        needs: of the objective.
        temperature: τ at the start.
    """

    def __init__(
        self,
        image: Tower | OnTeacher,
        text: Tower,
        width: int,
        teachers: tuple[Facts, ...],
        needs: Needs,
        temperature: float,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.spaces = spaces(teachers, width, needs)
        # Without a bias, norm(linear(norm(f))) is norm(linear(f)): it ships folded into the tower's projection.
        self.between = nn.ModuleDict({n: Head(width, bias=False) for n in ("f_g", "g_f") if n in HEADS[needs.heads]})
        # Shape (T,), never a scalar: a 0-dim parameter crashes deepspeed.initialize.
        count = needs.temperatures(len(teachers))
        self.log_scale = nn.Parameter(torch.full((count,), -math.log(temperature)))
        self.bias = None if needs.bias is None else nn.Parameter(torch.full((count,), needs.bias))

    def forward(
        self,
        images: torch.Tensor,
        tokens: torch.Tensor,
        teachers: Sequence[torch.Tensor],
        mixed: torch.Tensor | None = None,
    ) -> Rows:
        """Embed this process's share of a batch.

        Args:
            images: [n, 3, S, S] uint8 (not looked at where the teacher is the image tower).
            tokens: [n, C, context] int64, C captions an image.
            teachers: one [n, C or 1, P] a teacher.
            mixed: [n, 3, S, S] uint8: what the teachers' outputs are of, where that is not ``images``.

        Returns:
            float32 rows, [n, 1 or C, W]: "image" and "text", unit rows, and ``k/NAME`` for teacher k and the names
            of :class:`losses.Teaching`; besides "scale" (1/τ) and "bias", [1] or one a term.
        """
        n, captions, context = tokens.shape
        text = self.text(tokens.view(n * captions, context)).view(n, captions, -1)
        image = self.embed_image(images, teachers)
        seen = image if mixed is None else self.embed_image(mixed, teachers)
        rows = {"image": unit(image), "text": unit(text)}
        if self.between:
            rows = {"image": self.between["f_g"](rows["image"]), "text": self.between["g_f"](rows["text"])}
        for k, (space, teacher) in enumerate(zip(self.spaces, teachers, strict=False)):
            rows |= {f"{k}/{name}": value for name, value in space(seen, text, teacher).items()}
        rows["scale"] = self.scale()
        if self.bias is not None:
            rows["bias"] = self.bias.float()
        return rows

    def embed_image(self, images: torch.Tensor, teachers: Sequence[torch.Tensor]) -> torch.Tensor:
        """[n, 1, D] raw rows of the image tower."""
        if isinstance(self.image, OnTeacher):
            return self.image(teachers[0][:, 0], images)[:, None]
        return self.image(images)[:, None]

    def scale(self) -> torch.Tensor:
        """1/τ, at most ``MAX_SCALE``; at the bound the gradient still flows, so τ can come back.

        A step may leave ``log_scale`` beyond the bound: :class:`~distill.train.step.Step` puts it back.
        """
        log = self.log_scale.float()
        return (log + (log.clamp(max=MAX_LOG_SCALE) - log).detach()).exp()
