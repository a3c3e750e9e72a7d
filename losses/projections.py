"""Learned layers between students and a teacher; all are thrown away after training.

Each maps the outputs of the students and of one teacher to named rows, which an objective compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn

Outputs = Mapping[str, torch.Tensor]  # of a tower or teacher, by name: "embedding", "logits", "tokens"
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
LETTERS = {"image": "f", "text": "g"}  # the paper's names of the two students


class Projection(Protocol):
    """What every projection is called with.

    Args of a call:
        students: by modality, the outputs of each student: "embedding" [n, C, D] raw rows, "tokens" [n, C, T, W]; C is
            1 for images, and for texts the number of captions an image. With mixup, those of the mixed images.
        teacher: the outputs of the teacher, [n, 1 or C, …].

    Returns of a call:
        Rows by name, [n, 1 or C, …] float32.
    """

    def __call__(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows: ...


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


class SharedSpace(nn.Module):
    """One teacher's adapter ``h = linear_{P→D}(p)`` or ``h = MLP(p)`` and those of its four heads that are learned.

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

        Where a teacher's head is the identity, "teacher" takes its place; where a student's is, the student's own
        embedding does, and nothing is given here.
        """
        h, rows = self.adapter(teacher["embedding"]), Rows()
        for modality in self.students:
            f = LETTERS[modality]
            if f"{f}_h" in self.heads:
                rows[f"{modality}_h"] = self.heads[f"{f}_h"](unit(students[modality]["embedding"]))
            if f"h_{f}" in self.heads:
                rows[f"teacher_{f}"] = self.heads[f"h_{f}"](h)
            else:
                rows["teacher"] = unit(h)
        return rows


class TeacherSpace(nn.Module):
    """One linear layer D → P a student; the teacher's embedding unchanged.

    Args:
        teacher_width: P.
        width: D.
        students: the modalities that are compared with the teacher.
    """

    def __init__(self, teacher_width: int, width: int, students: Sequence[str]) -> None:
        super().__init__()
        # Named by the paper's letters, as checkpoints have them.
        self.heads = nn.ModuleDict({LETTERS[modality]: Linear(width, teacher_width) for modality in students})
        self.students = tuple(students)

    def forward(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows:
        """[n, …, P]: "image_h" and "text_h" through the layers, "teacher_f" and "teacher_g"."""
        rows: Rows = {}
        for modality in self.students:
            f = LETTERS[modality]
            rows[f"{modality}_h"] = self.heads[f](unit(students[modality]["embedding"])).float()
            rows[f"teacher_{f}"] = teacher["embedding"].float()
        return rows


class TeacherAlone(nn.Module):
    """Nothing learned: the teacher's embedding, as unit rows."""

    def forward(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows:
        """{"teacher": [n, …, P] unit rows}."""
        return {"teacher": unit(teacher["embedding"])}


class Classifier(nn.Module):
    """A classifier with the teacher's classes on the image student.

    Args:
        classes: C, of the teacher.
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
    """Rows of length 1, in float32."""
    return F.normalize(x.float(), dim=-1)
