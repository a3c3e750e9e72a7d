"""Students: runs and exports, LiT and combinations with the teacher among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError

from distill.data.captions import Captions
from distill.errors import UserError
from distill.evals.subject import OpenOptions, Prepare, Square, Subject
from distill.ship.config_file import CONFIG
from distill.ship.image_text import ImageText
from distill.ship.load import load
from distill.training.run import is_run, read_recipe


class ReadingSettings(BaseModel):
    """How a model's training read samples: these keys of its recipe's ``[data]``, whatever else is there."""

    caption_keys: tuple[str, ...]
    languages: tuple[str, ...]
    workers: int = Field(ge=0)


class Students(Subject):
    """Trained students.

    Args:
        model: the students.
        name: for tables.

    Attributes:
        path: the run or export; None if they are in memory only.
    """

    rank = 90

    def __init__(self, model: ImageText, name: str, path: Path | None = None) -> None:
        self.model, self.name, self.path = model, name, path
        settings = reading_settings(model)
        self.captions, self.workers = Captions(settings.caption_keys, settings.languages), settings.workers
        self.temperature = model.config.temperature
        if path is not None and is_run(path):
            recipe = read_recipe(path)
            self.data, self.train = recipe.data.eval, () if recipe.data.streamed else recipe.data.train
            self.options = [(table.task, table.options) for table in recipe.evaluate]

    @classmethod
    def recognises(cls, name: str) -> bool:
        return (Path(name) / CONFIG).is_file() or is_run(Path(name))

    @classmethod
    def open(cls, name: str, options: OpenOptions) -> Students:
        return cls(load(Path(name), options.device, options.alpha, options.best), name, Path(name))

    def identity(self) -> str:
        return self.model.identity()

    def preparations(self) -> Sequence[Prepare]:
        images = [part.config.image for _, part in self.model.parts]
        return [Square(image.image_size, image.interpolation) for image in images]

    @torch.inference_mode()
    def images(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        total, pre_logits = torch.zeros(()), []
        for (weight, part), pixels in zip(self.model.parts, inputs, strict=True):
            found = part.image(pixels.to(part.device), ("embedding", "pre_logits"))
            total = total + weight * unit(found["embedding"])
            pre_logits.append(found["pre_logits"].flatten(1).float().cpu())
        embedding = unit(total) if len(self.model.parts) > 1 else total
        return {"embedding": embedding, "pre_logits": torch.cat(pre_logits, dim=1)}

    @property
    def has_text(self) -> bool:
        return self.model.text is not None

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self.model.encode_text(list(texts))

    def teacher(self) -> str:
        recipe: Any = self.model.config.provenance.get("recipe") or {}
        teachers = recipe.get("teacher") if isinstance(recipe, dict) else None
        return str(teachers[0].get("name", "")) if teachers else ""


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Unit rows, float32, on the CPU."""
    return torch.nn.functional.normalize(rows.float(), dim=-1).cpu()


def modules(model: ImageText) -> list[tuple[str, torch.nn.Module]]:
    """The towers of a model by modality."""
    return [("image", model.image)] + ([("text", model.text)] if model.text is not None else [])


def reading_settings(model: ImageText) -> ReadingSettings:
    """How the training of a model read samples.

    Raises:
        UserError: if the model's configuration does not say so.
    """
    recipe = model.config.provenance.get("recipe")
    try:
        return ReadingSettings.model_validate(recipe.get("data") if isinstance(recipe, dict) else None)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["provenance.recipe.data", *map(str, first["loc"])])
        raise UserError(
            f"The model's config.json does not say how its captions are read: {where}: {first['msg']}.",
            "Export the run again.",
        ) from error


SUBJECT = Students
