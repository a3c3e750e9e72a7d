"""Pairs of teachers: the image tower and the text tower of one image–text model, for objectives that compare both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from losses.objective import Embeddings, TeacherFacts, TeacherRows, aligned
from losses.projections import Linear, Outputs, Rows, unit
from losses.relational import relational


def check_pairs(teachers: Sequence[TeacherFacts], temperature: float = 0.0) -> None:
    """Raise ``ValueError`` with advice unless the teachers are pairs: as many for images as for texts, in this order.

    Args:
        teachers: in the order of the recipe; the first one for images and the first one for texts are a pair, and so
            on.
        temperature: that of all pairs; 0: each has its own, which must then be known.
    """
    images, texts = ([t for t in teachers if t.modality == modality] for modality in ("image", "text"))
    given = ", ".join(f"{t.name} ({t.modality}, {t.width})" for t in teachers) or "none"
    if len(images) != len(texts) or not images or any(a.width != b.width for a, b in zip(images, texts, strict=True)):
        raise ValueError(
            f"needs pairs of an image teacher and a text teacher of one width, and is given {given}. Name the folder "
            'of a CLIP or SigLIP with teacher.N.tower = "both".'
        )
    for image, text in zip(images, texts, strict=True):
        if not temperature and (not image.temperature or image.temperature != text.temperature):
            raise ValueError(
                f"compares similarities at the teachers' own temperature, and '{image.name}' and '{text.name}' do not "
                "state one. Set objective.teacher_temperature, or name the two towers of one model."
            )


class PairedTeacher(nn.Module):
    """One teacher of a pair, and a linear layer from the student to it where that is read and the widths differ.

    Args:
        teacher: the facts about it.
        width: D, of the student of its modality; 0: no rows of the student.
        temperature: τ of the pair; 0: the teacher's own.
    """

    def __init__(self, teacher: TeacherFacts, width: int = 0, temperature: float = 0.0) -> None:
        super().__init__()
        self.modality, self.length = teacher.modality, (temperature or teacher.temperature) ** -0.5
        self.student: nn.Module | None = None
        if width:
            self.student = Linear(width, teacher.width) if width != teacher.width else nn.Identity()

    def forward(self, students: Mapping[str, Outputs], teacher: Outputs) -> Rows:
        """[n, …, P] rows: "MODALITY_teacher" of length 1/√τ, so that products of a pair's rows are similarities / τ.

        Also "MODALITY_student", unit rows, unless there are none of the student.
        """
        rows: Rows = {f"{self.modality}_teacher": unit(teacher["embedding"]) * self.length}
        if self.student is not None:
            rows[f"{self.modality}_student"] = unit(self.student(unit(students[self.modality]["embedding"])))
        return rows


def pairs(embeddings: Embeddings) -> list[tuple[TeacherRows, TeacherRows]]:
    """The rows of the image teacher and of the text teacher of each pair, see :func:`check_pairs`."""
    images, texts = (
        [t for t in embeddings.teachers if f"{modality}_teacher" in t.gathered] for modality in ("image", "text")
    )
    return list(zip(images, texts, strict=True))


def pair_weight(image_teacher: TeacherRows, text_teacher: TeacherRows) -> float:
    """The weight of a pair: the mean of those of its two teachers."""
    return (image_teacher.weight + text_teacher.weight) / 2


def divergence(image_teacher: TeacherRows, text_teacher: TeacherRows, embeddings: Embeddings) -> torch.Tensor:
    """The KL divergence of the students' image–text similarities from those of a pair, see :func:`losses.relational`.

    The length of the rows of :class:`PairedTeacher` has the pair's temperature in it.
    """
    e = embeddings
    of_pair = image_teacher.gathered["image_teacher"], text_teacher.gathered["text_teacher"]
    image, text, *targets = aligned(e.gathered["image"], e.gathered["text"], *of_pair)
    unscaled = torch.ones(1, dtype=torch.float64, device=e.scale.device)
    return relational(image, text, targets[0], targets[1], e.scale[:1], unscaled, rows=e.rows_of(image))
