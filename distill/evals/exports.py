"""Measures written exports beside the students that they were made of: retrieval, k-NN, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from distill.evals.plan import plan, suitable
from distill.evals.runner import measure
from distill.evals.session import Session
from distill.evals.store import Store
from distill.evals.subject import Square
from distill.evals.subjects.students import Students
from distill.ship.export_format import Opened
from distill.ship.image_text import ImageText

BATCH, REPEATS = 32, 5  # images a forward; forwards, of which the fastest counts
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

    def preparations(self) -> Sequence[Square]:
        return [Square(self.model.config.image.image_size, self.model.config.image.interpolation)]

    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = self.opened.images(inputs[0]).float()
        return {"embedding": rows, "pre_logits": rows}

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        embed = self.opened.texts or self.model.encode_text
        return embed(list(texts)).float()


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
        | {"images/s": images_per_second(one.images, model.config.image.image_size)}
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


def images_per_second(images: Callable[[torch.Tensor], torch.Tensor], side: int) -> float:
    """How many images of ``side`` pixels are embedded in a second, without decoding them."""
    pixels, seconds = torch.zeros(BATCH, 3, side, side, dtype=torch.uint8), list[float]()
    images(pixels)
    for _ in range(REPEATS):
        begin = time.perf_counter()
        images(pixels)
        seconds.append(time.perf_counter() - begin)
    return BATCH / min(seconds)
