"""Writes exports, and measures them beside the students that they were made of: retrieval, k-NN, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from distill.evals.plan import plan, suitable
from distill.evals.runner import measure
from distill.evals.session import Session
from distill.evals.store import Store
from distill.evals.subjects.students import Students
from distill.ship import model_card
from distill.ship.export import Options, export
from distill.ship.export_format import Opened
from distill.ship.image_text import ImageText
from distill.ship.written import Written
from distill.timing import images_per_second

TASKS = ("retrieval", "knn")


class WrittenStudents(Students):
    """Students that another library has opened: read and measured like those that they were made of.

    Where the format holds no text tower, texts are embedded by the students' own.
    """

    def __init__(self, model: ImageText, name: str, opened: Opened, path: Path | None = None) -> None:
        super().__init__(model, name, path)
        self.opened = opened

    def identity(self) -> str:
        return f"{super().identity()} {self.name}"

    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = self.opened.images(inputs[0]).float()
        return {"embedding": rows, "pre_logits": rows}

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        embed = self.opened.texts or self.model.encode_text
        return embed(list(texts)).float()


def write_exports(
    source: str | Path,
    out: str | Path,
    formats: Sequence[str],
    *,
    best: bool = False,
    dtype: str = "fp32",
    int8: bool = False,
    calibrate: Sequence[str] = (),
    data: Sequence[str] = (),
    metrics: Sequence[str | Path] = (),
    licence: str = "other",
) -> list[Written]:
    """Write a run's students, or convert an export: see :func:`distill.ship.export.export`.

    Args:
        source: the run folder, or an export in distill's own format.
        out: the folder to be made.
        formats: the names of export formats; several are written to a folder each in ``out``.
        best: the best checkpoint instead of the newest one.
        dtype: how weights are stored: fp32, fp16 or bf16.
        int8: store 8-bit integers, in formats that can.
        calibrate: shards for the range of activations; by default those that the run was trained on.
        data: what the trained model and each written export are measured on; none measures nothing.
        metrics: files that ``distill evaluate --json`` wrote, for the model card.
        licence: of the model, for the model card.

    Returns:
        What was written, and with ``data`` the trained model before it.

    Raises:
        distill.UserError: for anything the user can put right.
    """
    card = model_card.Extra(licence, model_card.read_metrics([Path(file) for file in metrics]))
    options = Options(best, dtype, int8, tuple(calibrate), tuple(data), card)
    measure = partial(measure_exports, Path(source), tuple(data)) if data else None
    return export(Path(source), Path(out), formats, options, measure)


def measure_exports(
    source: Path, data: Sequence[str], model: ImageText, opened: Mapping[str, Opened]
) -> dict[str, dict[str, float]]:
    """Mean R@10 of retrieval and, with labels, k-NN accuracy, in percent, and images/s of the image tower on the CPU.

    Args:
        source: the run or the export that was exported.
        data: what is measured on.
        model: the students, on the CPU.
        opened: the written exports by format.

    Returns:
        By format, "" for the students themselves, numbers by name.

    Raises:
        UserError: if the data cannot be read, or allow neither task.
    """
    own = Opened(model.encode_image, model.encode_text if model.text is not None else None)
    return {
        name: scores(WrittenStudents(model, name or "students", one, source), data)
        | {"images/s": images_per_second(one.images, model.config.image.image_size, model.device)}
        for name, one in {"": own, **opened}.items()
    }


def scores(subject: WrittenStudents, data: Sequence[str]) -> dict[str, float]:
    """What the tasks find that the subject and the data allow."""
    session = Session(subject, Store(None))
    possible, _ = suitable(session, plan(TASKS, {"data": list(data)}), strict=False)
    found = dict[str, float]()
    for task, evaluation in possible.items():
        metrics = measure(session, evaluation).metrics
        if task == "retrieval":
            found["mean R@10"] = 50 * (metrics["i2t_r10"].value + metrics["t2i_r10"].value)
        else:
            found["k-NN"] = 100 * next(iter(metrics.values())).value
    return found
