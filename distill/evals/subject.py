"""What is evaluated: an image encoder, perhaps with a text encoder for the same space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from distill import plugins
from distill.data.captions import Captions
from distill.data.views import PLAIN_VIEWS
from distill.errors import UserError

SUBJECTS = ("distill.evals.subjects", "SUBJECT", "distill.subjects")
Prepare = Callable[[Image.Image], torch.Tensor]  # a picture → the input of an image encoder, without a batch
BATCH = 256  # texts a forward
NO_TEXT = "It embeds no texts."


@dataclass(frozen=True)
class Square:
    """The largest central square of a picture, resized to ``side`` pixels: [3, side, side] uint8."""

    side: int
    interpolation: str

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return PLAIN_VIEWS.draw("", 0, picture.size).render(picture, self.side, self.interpolation)


@dataclass(frozen=True)
class OpenOptions:
    """How a subject is opened.

    Attributes:
        device: a torch device; None for a GPU where there is one.
        alpha: of a run that was trained without heads, the teacher's weight in image embeddings; None: its recipe's.
        best: a run at its best checkpoint.
    """

    device: str | None = None
    alpha: float | None = None
    best: bool = False


class Subject(ABC):
    """An encoder that is evaluated.

    Attributes:
        rank: kinds with lower numbers are asked first whether a name is theirs.
        name: for tables.
        captions: how captions are read from samples.
        workers: loader processes.
        temperature: by which similarities of images and texts are divided; None if it has not been learned.
        data, train: the shards that are measured on, and learnt from, unless others are named; empty if there are
            none.
        options: (task, options) that a recipe's [[evaluate]] names.
    """

    rank: ClassVar[int]
    name: str
    captions: Captions = Captions()
    workers: int = 1
    temperature: float | None = None
    data: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    options: Sequence[tuple[str, Mapping[str, Any]]] = ()

    @classmethod
    @abstractmethod
    def recognises(cls, name: str) -> bool:
        """Whether a name is one of this kind."""

    @classmethod
    @abstractmethod
    def open(cls, name: str, options: OpenOptions) -> Subject:
        """The subject of a name.

        Raises:
            UserError: if it cannot be loaded.
        """

    @abstractmethod
    def identity(self) -> str:
        """Changes if the weights or the preparation of pictures do."""

    @abstractmethod
    def preparations(self) -> Sequence[Prepare]:
        """What makes a picture the input of each of its image encoders; usually there is one. They can be pickled."""

    @abstractmethod
    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Embed a batch of images.

        Args:
            inputs: [n, …] for each of :meth:`preparations`.

        Returns:
            On the CPU, float32: "embedding" [n, D], unit rows, and "pre_logits" [n, F], the features that linear
            classifiers are trained on.
        """

    @property
    def has_text(self) -> bool:
        """Whether it embeds texts."""
        return False

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """[n, D] float32 unit rows of texts, on the CPU.

        Raises:
            UserError: if it embeds no texts.
        """
        raise UserError(f"{self.name} embeds no texts.", "Choose a model with a text tower.")

    def teacher(self) -> str:
        """The name of the teacher that it was distilled from; "" if it is not known."""
        return ""


@cache
def kinds() -> tuple[type[Subject], ...]:
    """All kinds of subjects, in the order in which they are asked."""
    found = [
        plugins.load("subject", name, *SUBJECTS, plugins.is_subclass(Subject)) for name in plugins.found(*SUBJECTS)
    ]
    return tuple(sorted(found, key=lambda kind: kind.rank))


def open_subject(name: str | Path, options: OpenOptions) -> Subject:
    """The subject of a name: a run or an export, a teacher, or a model of open_clip.

    Raises:
        UserError: if there is nothing of that name, or it cannot be loaded.
    """
    kind = next((kind for kind in kinds() if kind.recognises(str(name))), kinds()[-1])
    return kind.open(str(name), options)
