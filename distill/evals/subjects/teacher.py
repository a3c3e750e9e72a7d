"""Image teachers, by the names of their cards: ``packaged/…``, ``timm/ARCH``, or a folder that timm has saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

import teachers
from distill.errors import UserError, as_user_errors
from distill.evals.subject import OpenOptions, Prepare, Square, Subject
from distill.ship.config_file import CONFIG
from distill.ship.foreign import is_of_timm
from distill.tensors import hash_tensors
from launch.group import default_device


class TeacherImages(Subject):
    """A frozen image encoder. Its embedding is also what linear classifiers are trained on."""

    rank = 50

    def __init__(self, teacher: teachers.Teacher, device: torch.device) -> None:
        self.network, self.device, self.name = teacher.to(device), device, teacher.card.name

    @classmethod
    def recognises(cls, name: str) -> bool:
        if Path(name).is_dir():
            return is_of_timm(Path(name) / CONFIG)
        with as_user_errors():
            return name.startswith("timm/") or name in {card.name for card in teachers.cards()}

    @classmethod
    def open(cls, name: str, options: OpenOptions) -> TeacherImages:
        name = str(Path(name).absolute()) if Path(name).is_dir() else name
        with as_user_errors():
            card = teachers.card(name)
            if card.modality != "image":
                raise UserError(
                    f"The teacher '{name}' embeds texts, and evaluations need images.", "Name another one."
                )
            return cls(teachers.load(card), torch.device(options.device) if options.device else default_device())

    def identity(self) -> str:
        card = self.network.card
        return hash_tensors(self.network.net.state_dict(), card.arch, card.options, card.mean, card.std)

    def preparations(self) -> Sequence[Prepare]:
        return [Square(self.network.card.image_size, self.network.card.interpolation)]

    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        found = self.network(inputs[0].to(self.device))["embedding"].flatten(1).cpu()
        return {"embedding": torch.nn.functional.normalize(found, dim=1), "pre_logits": found}


SUBJECT = TeacherImages
