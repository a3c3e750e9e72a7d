"""Write an export: two safetensors students, tokenizer, configuration and model card. No teacher, no pickle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import students
import teachers
from distill.config import Recipe
from distill.data.captions import Tokenizer
from distill.data.shard_names import without_secrets
from distill.errors import UserError, as_user_errors
from distill.files import write_text, write_whole
from distill.lookup import card_of, names_of
from distill.ship import model_card
from distill.ship.config_file import Config, ImageConfig, NetConfig, TextConfig
from distill.train import checkpoint, prepare, towers


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
    write_text(unfinished / "README.md", model_card.render(config, out.name))
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
    tokenizer = Tokenizer.load(run / prepare.TOKENIZER, towers.text_spec(recipe).context)
    tensors = {k: v for k, v in tensors.items() if not k.startswith("adapter.")}
    image = image_config(recipe)
    if recipe.on_teacher:
        tensors = {k.replace("image.", "image.top.", 1): v for k, v in tensors.items()} | locked_tensors(recipe, run)
    # In an export a plain image tower's weights have timm's own names.
    plain = "image.net." if not recipe.on_teacher else "image.locked.net." if not image.layers else ""
    if plain:
        tensors = {k.replace(plain, "image.", 1): v for k, v in tensors.items()}
    config = Config(
        width=recipe.student.width,
        temperature=temperature,
        image=image,
        text=TextConfig(spec=towers.text_spec(recipe).model_dump(), vocab=tokenizer.vocab),
        provenance=provenance(recipe, run, folder) | {"parameters": shipped(tensors)},
    )
    return config, tensors, tokenizer


def image_config(recipe: Recipe) -> ImageConfig:
    """The configuration of the image tower: the student, or the locked teacher with what was learned on it."""
    tower, table = towers.image_student(recipe), recipe.student.image
    if isinstance(tower, students.ImageTower):
        return ImageConfig(
            arch=table.arch,
            options=table.options,
            width=recipe.student.width,
            image_size=recipe.data.image_size,
            mean=tuple(tower.mean.flatten().tolist()),
            std=tuple(tower.std.flatten().tolist()),
            interpolation="bicubic",
        )
    beside = None
    if isinstance(tower, students.OnTeacher) and tower.beside is not None and table.beside is not None:
        beside = NetConfig(
            arch=table.beside["arch"],
            options={k: v for k, v in table.beside.items() if k != "arch"},
            mean=tuple(tower.beside.mean.flatten().tolist()),
            std=tuple(tower.beside.std.flatten().tolist()),
        )
    return locked_config(recipe, table.layers, beside)


def third_tower(run: Path) -> tuple[Config, dict[str, torch.Tensor], Tokenizer]:
    """As :func:`contents`, with the first teacher through its adapter, ``h(I)``, in place of the image student.

    Raises:
        UserError: if the run was trained with heads, so that its text tower does not share the adapter's space.
    """
    config, tensors, tokenizer = contents(run)
    recipe, folder = prepare.read_recipe(run), checkpoint.newest(run)
    assert folder is not None
    adapter = {k: v for k, v in load_file(folder / checkpoint.STUDENTS).items() if k.startswith("adapter.")}
    if not adapter:
        raise UserError(f"The run {run} was trained with heads.", 'Train with objective.heads = "none".')
    # The adapter is the MLP of a FlexiLiT, of one or two layers.
    linear = "adapter.weight" in adapter
    renamed = {
        k.replace("adapter.", "image.top.mlp.0." if linear else "image.top.mlp."): v for k, v in adapter.items()
    }
    tensors = {k: v for k, v in tensors.items() if k.startswith("text.")} | renamed | locked_tensors(recipe, run)
    image = locked_config(recipe, layers=1 if linear else 2)
    return config.model_copy(update={"image": image}), tensors, tokenizer


def locked_tensors(recipe: Recipe, run: Path) -> dict[str, torch.Tensor]:
    """The first teacher's weights, as a part of an image tower.

    Raises:
        UserError: if they are not those the run was trained with.
    """
    card = card_of(recipe.teacher[0])
    with as_user_errors():
        teacher = teachers.load(card, recipe.teacher[0].image_size)
    trained = prepare.read_about(run)["teacher_weights"].get(names_of(recipe)[0])
    if trained and trained != teacher.fingerprint():
        raise UserError(
            f"The weights of '{card.name}' are not those that {run} was trained with.", "Restore the ones it had then."
        )
    return {f"image.locked.net.{k}": v for k, v in teacher.net.state_dict().items()}


def locked_config(recipe: Recipe, layers: int, beside: NetConfig | None = None) -> ImageConfig:
    """The configuration of an image tower that holds the first teacher."""
    table, card = recipe.teacher[0], card_of(recipe.teacher[0])
    side = table.image_size or card.image_size
    return ImageConfig(
        arch=card.arch,
        options=card.options_at(side),
        width=0,
        image_size=side,
        mean=card.mean,
        std=card.std,
        interpolation=card.interpolation,
        layers=layers,
        beside=beside,
    )


def shipped(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """How many numbers each tower ships."""
    return {
        tower: sum(value.numel() for name, value in tensors.items() if name.startswith(f"{tower}."))
        for tower in ("image", "text")
    }


def told(recipe: Recipe) -> dict[str, Any]:
    """The recipe as an export tells it: addresses of streams may hold passwords."""
    tree = recipe.model_dump(mode="json", exclude_none=True)
    tree["data"]["train"] = [without_secrets(spec) for spec in recipe.data.train]
    return tree


def provenance(recipe: Recipe, run: Path, folder: Path) -> dict[str, Any]:
    """How the towers came about: recipe, steps, data, versions."""
    about = prepare.read_about(run)
    return {
        "objective": recipe.objective.name,
        "checkpoint": folder.name,
        "teachers": about["teachers"],
        "samples": about["samples"],
        "parameters": about["parameters"],
        "versions": about["versions"],
        "recipe": told(recipe),
    }
