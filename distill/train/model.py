"""The trained model: two towers, an adapter and four heads a teacher, one temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from distill.data.batch import Batch
from launch import group as processes
from losses import Embeddings
from losses.objective import TeacherEmbeddings

MAX_SCALE = 100.0  # CLIP's bound on 1/τ (arXiv 2103.00020, section 2.5)


class Linear(nn.Linear):
    """A linear layer that starts as the paper's code base starts it: LeCun normal weights, no bias.

    torch's own start adds a random bias that is as long as the image of a unit vector, so all rows begin side by
    side; on the demo (one seed) the recall at 10 was 16.2 with it, 17.9 without.
    """

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        nn.init.zeros_(self.bias)


class Head(nn.Linear):
    """``NL(x) = norm(linear(x))``, the paper's head; D → D.

    It starts as the identity: both students then start out aligned to one and the same teacher space, and so to
    each other, and the heads take apart only what training finds useful to take apart. On the demo (one seed) the
    image–text recall at 10 was 19.3 with it, 17.9 with LeCun normal weights.
    """

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return unit(super().forward(x))


class Heads(nn.Module):
    """One teacher's adapter ``h = linear_{P→D}(p)`` and the four heads ``f_h, h_f, g_h, h_g``.

    Three Towers, arXiv 2305.16999, section 2 and Figure A.1.
    """

    def __init__(self, teacher_width: int, width: int) -> None:
        super().__init__()
        self.adapter = Linear(teacher_width, width)
        self.image_h = Head(width, width)
        self.teacher_f = Head(width, width)
        self.text_h = Head(width, width)
        self.teacher_g = Head(width, width)

    def forward(self, image: torch.Tensor, text: torch.Tensor, teacher: torch.Tensor) -> list[torch.Tensor]:
        """[n, D], [n, D], [n, P] → f_h, h_f, g_h, h_g, each [n, D] unit rows."""
        h = self.adapter(teacher)
        return [self.image_h(image), self.teacher_f(h), self.text_h(text), self.teacher_g(h)]


class Model(nn.Module):
    """Everything that is trained.

    Args:
        image: the image student, or None where the first teacher is the image tower (LiT).
        text: the text student.
        width: D.
        teacher_widths: P of every teacher that has heads; empty for an objective without.
        temperature: τ at the start.
    """

    def __init__(
        self,
        image: nn.Module | None,
        text: nn.Module,
        width: int,
        teacher_widths: Sequence[int],
        temperature: float,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.heads = nn.ModuleList(Heads(p, width) for p in teacher_widths)
        # Shape (1,), not a scalar: a 0-dim parameter crashes deepspeed.initialize.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def forward(
        self, images: torch.Tensor, tokens: torch.Tensor, teachers: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed this process's share of a batch.

        Args:
            images: [n, 3, S, S] uint8 (not looked at by a model without image student).
            tokens: [n, context] int64.
            teachers: one [n, P] a teacher.

        Returns:
            [n, K, D] float32 unit rows: image, text, then f_h, h_f, g_h, h_g of every teacher; and 1/τ, [1].
        """
        image = unit(teachers[0] if self.image is None else self.image(images))
        text = unit(self.text(tokens))
        rows = [image, text]
        for heads, teacher in zip(self.heads, teachers, strict=False):
            rows += heads(image, text, teacher)
        return torch.stack(rows, dim=1), self.scale()

    def scale(self) -> torch.Tensor:
        """1/τ, [1], at most ``MAX_SCALE``; at the bound the gradient still flows, so τ can come back."""
        scale = self.log_scale.float().exp()
        return scale + (scale.clamp(max=MAX_SCALE) - scale).detach()


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, in float32."""
    return F.normalize(x.float(), dim=-1)


def global_embeddings(model: nn.Module, batch: Batch, weights: Sequence[float], group: processes.Group) -> Embeddings:
    """Run the model on this process's share of a batch and gather the whole of it.

    Args:
        model: a :class:`Model`, or DeepSpeed's engine around one.
        batch: this process's share; ``batch.teachers`` are embeddings.
        weights: one a teacher.
        group: the processes; everything travels in one collective.
    """
    local, scale = model(batch.images, batch.tokens, batch.teachers)
    n, kinds, width = local.shape
    rows = processes.gather(local.reshape(n, kinds * width), group).view(-1, kinds, width).unbind(dim=1)
    teachers = tuple(
        TeacherEmbeddings(rows[k], rows[k + 1], rows[k + 2], rows[k + 3], weight)
        for k, weight in zip(range(2, kinds, 4), weights, strict=False)
    )
    mine = slice(group.rank * n, (group.rank + 1) * n)
    return Embeddings(image=rows[0], text=rows[1], scale=scale, teachers=teachers, rows=mine)
