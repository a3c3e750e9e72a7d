"""Where students and a teacher meet: the learned layers between their embeddings. All are thrown away afterwards.

One class a kind of :class:`losses.Needs` ``.space``. Each maps the students' and the teacher's embeddings to named
rows, [n, C, W] with C = 1 or the number of captions an image.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from losses import Needs
from losses.objectives import HEADS, Facts

Rows = dict[str, torch.Tensor]


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

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__(width, width, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return unit(super().forward(x))


class Space(Protocol):
    """What meets where.

    Args of a call:
        image: [n, 1, D] raw rows of the image student, of the images the teacher's answer is about.
        text: [n, C, D] raw rows of the text student.
        teacher: [n, C or 1, P] the teacher's output.
    """

    def __call__(self, image: torch.Tensor, text: torch.Tensor, teacher: torch.Tensor) -> Rows: ...


class SharedSpace(nn.Module):
    """One teacher's adapter ``h = linear_{P→D}(p)`` or ``h = MLP(p)`` and those of its four heads that are learned.

    Three Towers, arXiv 2305.16999, section 2, Figure A.1 and section E.5.
    """

    def __init__(self, facts: Facts, width: int, needs: Needs) -> None:
        super().__init__()
        wide = 4 * facts.width
        adapters = {
            "linear": lambda: Linear(facts.width, width),
            "mlp": lambda: nn.Sequential(Linear(facts.width, wide), nn.GELU(), Linear(wide, width)),
        }
        self.adapter = adapters[needs.adapter]()
        self.students = needs.students
        names = [name for s in needs.students for name in (f"{s}_h", f"h_{s}")]
        self.heads = nn.ModuleDict({name: Head(width) for name in names if name in HEADS[needs.heads]})

    def forward(self, image: torch.Tensor, text: torch.Tensor, teacher: torch.Tensor) -> Rows:
        """Rows by the names of :class:`losses.Teaching`; an identity's are left out, or stand under "teacher"."""
        h, rows = self.adapter(teacher), {}
        own = {"f": ("image", unit(image)), "g": ("text", unit(text))}
        for student in self.students:
            name, x = own[student]
            if f"{student}_h" in self.heads:
                rows[f"{name}_h"] = self.heads[f"{student}_h"](x)
            if f"h_{student}" in self.heads:
                rows[f"teacher_{student}"] = self.heads[f"h_{student}"](h)
            else:
                rows["teacher"] = unit(h)
        return rows


class TeacherSpace(nn.Module):
    """One linear layer D → P a student; the teacher's embedding as it comes."""

    def __init__(self, facts: Facts, width: int, needs: Needs) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({student: Linear(width, facts.width) for student in needs.students})

    def forward(self, image: torch.Tensor, text: torch.Tensor, teacher: torch.Tensor) -> Rows:
        own = {"f": ("image", unit(image)), "g": ("text", unit(text))}
        rows: Rows = {}
        for student, head in self.heads.items():
            name, x = own[student]
            rows |= {f"{name}_h": head(x).float(), f"teacher_{student}": teacher.float()}
        return rows


class RawSpace(nn.Module):
    """Nothing learned: the teacher's embedding, as unit rows."""

    def __init__(self, facts: Facts, width: int, needs: Needs) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor, text: torch.Tensor, teacher: torch.Tensor) -> Rows:
        return {"teacher": unit(teacher)}


class LogitSpace(nn.Module):
    """The teacher's classes: a classifier on the image student; the teacher's output are its logits."""

    def __init__(self, facts: Facts, width: int, needs: Needs) -> None:
        super().__init__()
        self.classifier = Linear(width, facts.classes)

    def forward(self, image: torch.Tensor, text: torch.Tensor, teacher: torch.Tensor) -> Rows:
        return {"student_logits": self.classifier(image).float(), "teacher_logits": teacher.float()}


SPACES = {"shared": SharedSpace, "teacher": TeacherSpace, "raw": RawSpace, "logits": LogitSpace}


def spaces(teachers: tuple[Facts, ...], width: int, needs: Needs) -> nn.ModuleList:
    """One space a teacher; none for an objective that wants none."""
    return nn.ModuleList(SPACES[needs.space](facts, width, needs) for facts in teachers if needs.space != "none")


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, in float32."""
    return F.normalize(x.float(), dim=-1)
