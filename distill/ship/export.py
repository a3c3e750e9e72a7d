"""Write an export: two safetensors students, tokenizer, configuration and model card. No teacher, no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import teachers
from distill.config import Recipe
from distill.data.captions import Tokenizer
from distill.errors import UserError, from_leaves
from distill.files import write_text, write_whole
from distill.ship import card
from distill.ship.describe import Config, ImageConfig, TextConfig
from distill.train import checkpoint, prepare, setup


def export(run: Path, out: Path) -> Config:
    """Write a run's students, as of its newest checkpoint, to a new folder.

    Raises:
        UserError: if ``run`` is no run or has no checkpoint yet, or ``out`` exists.
    """
    if out.exists():
        raise UserError(f"{out} already exists.", "Choose another --out.")
    config, tensors, tokenizer = contents(run)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in ("image", "text"):
        tower = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        write_whole(unfinished / f"{name}.safetensors", lambda to, t=tower: save_file(t, to))  # type: ignore[misc]
    write_whole(unfinished / "tokenizer.model", lambda to: to.write_bytes(tokenizer.model))
    write_text(unfinished / "config.json", config.model_dump_json(indent=1) + "\n")
    write_text(unfinished / "README.md", card.render(config, out.name))
    unfinished.rename(out)
    return config


def contents(run: Path) -> tuple[Config, dict[str, torch.Tensor], Tokenizer]:
    """What a run's export holds: configuration, ``image.*`` and ``text.*`` tensors, tokenizer.

    Raises:
        UserError: if the folder is no run or has no checkpoint yet.
    """
    recipe = prepare.read_recipe(run)
    folder = checkpoint.newest(run)
    if folder is None:
        raise UserError(f"The run {run} has no checkpoint yet.", "Let it train, or continue it with --resume.")
    tensors = load_file(folder / checkpoint.STUDENTS)
    temperature = 1 / float(tensors.pop("scale"))
    tokenizer = Tokenizer.load(run / prepare.TOKENIZER, setup.text_spec(recipe).context)
    # In the export the image tower's weights are timm's own names; in a checkpoint they lie below "net".
    tensors = {k.replace("image.net.", "image.", 1): v for k, v in tensors.items()}
    if recipe.locked:
        image, weights = locked_teacher(recipe)
        tensors |= {f"image.{k}": v for k, v in weights.items()}
    else:
        image = trained_image(recipe)
    config = Config(
        width=recipe.student.width,
        temperature=temperature,
        image=image,
        text=TextConfig(spec=setup.text_spec(recipe).model_dump(), vocab=tokenizer.vocab),
        provenance=provenance(recipe, run, folder),
    )
    return config, tensors, tokenizer


def trained_image(recipe: Recipe) -> ImageConfig:
    """The configuration of an image student."""
    tower = setup.image_student(recipe)
    assert tower is not None
    return ImageConfig(
        arch=recipe.student.image.arch,
        options=recipe.student.image.options,
        width=recipe.student.width,
        image_size=recipe.data.image_size,
        mean=tuple(tower.mean.flatten().tolist()),
        std=tuple(tower.std.flatten().tolist()),
        interpolation="bicubic",
    )


def locked_teacher(recipe: Recipe) -> tuple[ImageConfig, dict[str, torch.Tensor]]:
    """LiT: the teacher is the image tower, and ships."""
    table = recipe.teacher[0]
    teacher_card = setup.card_of(table)
    with from_leaves():
        teacher = teachers.load(teacher_card)
    config = ImageConfig(
        arch=teacher_card.arch,
        options={},
        width=0,
        image_size=table.image_size or teacher_card.image_size,
        mean=teacher_card.mean,
        std=teacher_card.std,
        interpolation=teacher_card.interpolation,
    )
    return config, dict(teacher.net.state_dict())


def provenance(recipe: Recipe, run: Path, folder: Path) -> dict[str, Any]:
    """How the towers came about: recipe, steps, data, versions."""
    about = json.loads((run / prepare.ABOUT).read_text(encoding="utf-8"))
    return {
        "objective": recipe.objective.name,
        "checkpoint": folder.name,
        "teachers": about["teachers"],
        "samples": about["samples"],
        "parameters": about["parameters"],
        "versions": about["versions"],
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
    }
