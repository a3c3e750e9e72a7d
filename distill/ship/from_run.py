"""The exported content of a run: its students at the newest checkpoint, including a locked teacher if there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import students
import teachers
from distill.errors import UserError, as_user_errors
from distill.resolved import ResolvedRecipe
from distill.ship.config_file import Config, ImageConfig, NetConfig, TextConfig
from distill.ship.contents import Shipped
from distill.ship.provenance import provenance
from distill.training import checkpoint
from distill.training.run import read_about, resolve_run
from distill.training.setup import image_student, load_tokenizer
from students import Tokenizer


def shipped_students(run: Path, best: bool = False) -> Shipped:
    """The content of a run's export.

    Args:
        run: the run folder.
        best: at the best checkpoint, instead of the newest one.

    Raises:
        UserError: if the folder is not a run folder or has no such checkpoint.
    """
    resolved = resolve_run(run)
    folder = checkpoint_of(run, best)
    tensors, tokenizer = load_file(folder / checkpoint.STUDENTS), load_tokenizer(resolved, run)
    locked = locked_tensors(resolved, run) if resolved.recipe.on_teacher else {}
    return assemble(resolved, tensors, tokenizer, provenance(resolved.recipe, run, folder.name), locked)


def checkpoint_of(run: Path, best: bool) -> Path:
    """The folder of the newest or the best checkpoint of a run.

    Raises:
        UserError: if there is none.
    """
    folder = checkpoint.newest(run, checkpoint.BEST if best else checkpoint.CHECKPOINTS)
    if folder is None and best:
        raise UserError(
            f"The run {run} has no best checkpoint.", "Let it train with a metric as best of an [[evaluate]] table."
        )
    if folder is None:
        raise UserError(f"The run {run} has no checkpoint yet.", "Let it train, or continue it with --resume.")
    return folder


def assemble(
    resolved: ResolvedRecipe,
    tensors: dict[str, torch.Tensor],
    tokenizer: Tokenizer | None,
    provenance: dict[str, Any],
    locked: dict[str, torch.Tensor],
) -> Shipped:
    """The students of a recipe as an export contains them.

    Args:
        resolved: the recipe.
        tensors: see :func:`distill.training.model.student_tensors`.
        tokenizer: the text student's; None without a text student.
        provenance: how they were trained.
        locked: see :func:`locked_tensors`; empty if the image tower is no locked teacher.
    """
    recipe, tensors = resolved.recipe, dict(tensors)
    temperature = 1 / float(tensors.pop("scale"))
    tensors = {k: v for k, v in tensors.items() if not k.startswith("adapter.")}
    image = image_config(resolved)
    if recipe.on_teacher:
        tensors = {k.replace("image.", "image.top.", 1): v for k, v in tensors.items()} | locked
    # In an export the weights of an image tower without an MLP have timm's names.
    prefix = "image.net." if not recipe.on_teacher else "image.locked.net." if not image.layers else ""
    if prefix:
        tensors = {k.replace(prefix, "image.", 1): v for k, v in tensors.items()}
    text = None
    if tokenizer is not None and resolved.text_options is not None:
        spec = {"arch": recipe.student.text.arch} | resolved.text_options.model_dump()
        text = TextConfig(spec=spec, vocab=tokenizer.vocab)
    config = Config(
        width=recipe.student.width,
        temperature=temperature,
        image=image,
        text=text,
        provenance=provenance | {"parameters": parameter_counts(tensors)},
    )
    return Shipped(config, tensors, tokenizer)


def image_config(resolved: ResolvedRecipe) -> ImageConfig:
    """The configuration of the image tower: of the student, or of the locked teacher with the trained layers on it."""
    recipe, table = resolved.recipe, resolved.recipe.student.image
    with as_user_errors():
        tower = image_student(resolved)
    if isinstance(tower, students.ImageTower):
        return ImageConfig(
            arch=table.arch,
            options=tower.options,
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
            options=tower.beside.options,
            mean=tuple(tower.beside.mean.flatten().tolist()),
            std=tuple(tower.beside.std.flatten().tolist()),
        )
    return locked_config(resolved, table.mlp_layers, beside)


def third_tower(run: Path, best: bool = False) -> Shipped:
    """Like :func:`shipped_students`, but the image tower is the first teacher followed by its adapter, ``h(I)``.

    Raises:
        UserError: if the run was trained with heads, so that its text tower does not share the adapter's space.
    """
    shipped, resolved, folder = shipped_students(run, best), resolve_run(run), checkpoint_of(run, best)
    adapter = {k: v for k, v in load_file(folder / checkpoint.STUDENTS).items() if k.startswith("adapter.")}
    if not adapter:
        raise UserError(f"The run {run} was trained with heads.", 'Train with objective.heads = "none".')
    # Configured as a FlexiLiT whose MLP is the adapter, of one or two layers.
    linear = "adapter.weight" in adapter
    renamed = {
        k.replace("adapter.", "image.top.mlp.0." if linear else "image.top.mlp."): v for k, v in adapter.items()
    }
    text = {k: v for k, v in shipped.tensors.items() if k.startswith("text.")}
    image = locked_config(resolved, layers=1 if linear else 2)
    config = shipped.config.model_copy(update={"image": image})
    return Shipped(config, text | renamed | locked_tensors(resolved, run), shipped.tokenizer)


def locked_tensors(resolved: ResolvedRecipe, run: Path) -> dict[str, torch.Tensor]:
    """The first teacher's weights, named as the locked part of an image tower.

    Raises:
        UserError: if they are not those that the run was trained with.
    """
    card, first = resolved.first, resolved.teachers[0]
    assert card is not None
    with as_user_errors():
        teacher = teachers.load(card, first.table.image_size)
    expected = read_about(run)["teacher_weights"].get(first.name)
    if expected and expected != teacher.fingerprint():
        raise UserError(
            f"The weights of '{card.name}' are not those that {run} was trained with.", "Restore those weights."
        )
    return {f"image.locked.net.{k}": v for k, v in teacher.net.state_dict().items()}


def locked_config(resolved: ResolvedRecipe, layers: int, beside: NetConfig | None = None) -> ImageConfig:
    """The configuration of an image tower around the locked first teacher."""
    card, side = resolved.first, resolved.teachers[0].image_size
    assert card is not None
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


def parameter_counts(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """The number of exported parameters of each tower."""
    return {
        tower: sum(value.numel() for name, value in tensors.items() if name.startswith(f"{tower}."))
        for tower in ("image", "text")
        if any(name.startswith(f"{tower}.") for name in tensors)
    }
