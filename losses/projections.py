"""Learned layers between students and a teacher, which exports leave out.

Each maps the outputs of the students and of one teacher to rows by name, which an objective compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn

Outputs = Mapping[str, torch.Tensor]  # the outputs of a tower or a teacher by name: "embedding", "logits", "tokens"
Rows = dict[str, torch.Tensor]
Heads = Literal["default", "third", "main", "none", "independent"]

# Which projections are learned; the others are identities. f_h, g_h: students to teacher; h_f, h_g: teacher to
# students; f_g, g_f: students to each other. Three Towers, arXiv 2305.16999, section E.5.
HEADS: dict[str, frozenset[str]] = {
    "default": frozenset({"f_h", "g_h", "h_f", "h_g"}),
    "third": frozenset({"h_f", "h_g"}),
    "main": frozenset({"f_h", "g_h"}),
    "none": frozenset(),
    "independent": frozenset({"f_h", "g_h", "h_f", "h_g", "f_g", "g_f"}),
}
LETTERS = {"image": "f", "text": "g"}  # the paper's symbols for the two students


class Projection(Protocol):
    """The call signature of projections.

    Args of a call:
        students: by modality, the outputs of each student: "embedding" [n, C, D], not normalised, "tokens"
            [n, C, T, W]; C is 1 for images, and for texts the number of captions per image. With mixup, the image
            student's outputs are those of the mixed images. Of texts there may be fewer than of images: those of the
            first samples, which have captions.
        teacher: the outputs of the teacher, [n, 1 or C, …]; n is the number of images or of texts, as its input is.

    Returns of a call:
        Rows by name, [n, 1 or C, …] float32.
    """

    def __call__(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows: ...


class Linear(nn.Linear):
    """A linear layer that is initialised as in the paper's code base: LeCun normal weights, zero bias.

    torch initialises the bias at random, about as long as the image of a unit vector, so all rows start close to each
    other; on the demo (one seed) the recall at 10 was 16.2 with torch's initialisation, 17.9 with this one.
    """

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        nn.init.zeros_(self.bias)


class Head(nn.Linear):
    """``NL(x) = norm(linear(x))``, the paper's head; D → D.

    It is initialised as the identity: both students are then trained towards the same teacher space from the start,
    and so towards each other, and the heads diverge only where that lowers the loss. On the demo (one seed) the
    image–text recall at 10 was 19.3 with the identity, 17.9 with LeCun normal weights.
    """

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__(width, width, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return unit(super().forward(x))


class SharedSpace(nn.Module):
    """One teacher's adapter, ``h = linear_{P→D}(p)`` or ``h = MLP(p)``, and its learned heads, up to four.

    Three Towers, arXiv 2305.16999, section 2, Figure A.1 and section E.5.

    Args:
        teacher_width: P.
        width: D.
        students: the modalities that are compared with the teacher.
        heads: which heads are learned, see :data:`HEADS`.
        adapter: "linear", or "mlp": Linear to 4P, GELU, Linear to D.
    """

    def __init__(
        self, teacher_width: int, width: int, students: Sequence[str], heads: str = "default", adapter: str = "linear"
    ) -> None:
        super().__init__()
        wide = 4 * teacher_width
        adapters = {
            "linear": lambda: Linear(teacher_width, width),
            "mlp": lambda: nn.Sequential(Linear(teacher_width, wide), nn.GELU(), Linear(wide, width)),
        }
        self.adapter = adapters[adapter]()
        self.students = tuple(students)
        names = [name for m in students for name in (f"{LETTERS[m]}_h", f"h_{LETTERS[m]}")]
        self.heads = nn.ModuleDict({name: Head(width) for name in names if name in HEADS[heads]})

    def forward(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows:
        """[n, …, D] unit rows: "image_h", "teacher_f", "text_h", "teacher_g" for the heads that are learned.

        If a head of the teacher is the identity, its rows are "teacher". If a head of a student is the identity, there
        are no rows here: the objective reads the student's embedding.
        """
        h, rows = self.adapter(teacher["embedding"]), Rows()
        for modality in self.students:
            f = LETTERS[modality]
            if f"{f}_h" in self.heads:
                rows[f"{modality}_h"] = self.heads[f"{f}_h"](unit(students[modality]["embedding"]))
            if f"h_{f}" in self.heads:
                rows[f"teacher_{f}"] = self.heads[f"h_{f}"](h[: len(students[modality]["embedding"])])
            else:
                rows["teacher"] = unit(h)
        return rows


class TeacherSpace(nn.Module):
    """A linear layer D → P for each student; the teacher's embedding is unchanged.

    Args:
        teacher_width: P.
        width: D.
        students: the modalities that are compared with the teacher.
    """

    def __init__(self, teacher_width: int, width: int, students: Sequence[str]) -> None:
        super().__init__()
        # The keys are the paper's symbols, which are part of the names in checkpoints.
        self.heads = nn.ModuleDict({LETTERS[modality]: Linear(width, teacher_width) for modality in students})
        self.students = tuple(students)

    def forward(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows:
        """[n, …, P]: "image_h" and "text_h", the outputs of the layers; "teacher_f" and "teacher_g", the embedding."""
        rows: Rows = {}
        for modality in self.students:
            f = LETTERS[modality]
            rows[f"{modality}_h"] = self.heads[f](unit(students[modality]["embedding"])).float()
            rows[f"teacher_{f}"] = teacher["embedding"].float()
        return rows


class TeacherEmbedding(nn.Module):
    """No learned layers: the teacher's embedding, normalised."""

    def forward(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows:
        """{"teacher": [n, …, P] unit rows}."""
        return {"teacher": unit(teacher["embedding"])}


class Classifier(nn.Module):
    """A linear classifier on the image student with the teacher's classes.

    Args:
        classes: C, the number of the teacher's classes.
        width: D.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classifier = Linear(width, classes)

    def forward(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows:
        """[n, 1, C] logits: "student_logits" and "teacher_logits"."""
        student = self.classifier(students["image"]["embedding"])
        return {"student_logits": student.float(), "teacher_logits": teacher["logits"].float()}


def unit(x: torch.Tensor) -> torch.Tensor:
    """The rows divided by their L2 norm, in float32."""
    return F.normalize(x.float(), dim=-1)
