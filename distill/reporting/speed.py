"""Size and speed of a run's students and of its first teacher, measured here."""

from __future__ import annotations

import torch
from torch import nn

import teachers
from distill.reporting.facts import Speed, Tower
from distill.resolved import ResolvedRecipe
from distill.ship.image_text import ImageText
from distill.timing import BATCH, REPEATS, measured


def measure_speed(model: ImageText, resolved: ResolvedRecipe) -> Speed:
    """Measure the towers of a run, and its first teacher unless that is the image tower.

    Args:
        model: the students.
        resolved: the run's recipe.
    """
    image, device = model.config.image, model.device
    towers = [image_tower("image student", model.image, image.image_size, device)]
    if model.text is not None and model.tokenizer is not None:
        text = model.text
        tokens = model.tokenizer.encode(["a red apple on a table"] * BATCH).to(device)
        rate, milliseconds = measured(lambda n: text(tokens[:n]), device)
        towers.append(tower("text student", text, rate, milliseconds, f"{model.tokenizer.context} tokens"))
    first = resolved.teachers[0] if resolved.teachers else None
    if first is not None and (first.card.is_timm or first.card.build) and not resolved.recipe.on_teacher:
        net = teacher_network(first.card, first.image_size).to(device)
        towers.append(image_tower("teacher", net, first.image_size, device))
    where = "a GPU" if device.type == "cuda" else f"the CPU with {torch.get_num_threads()} threads"
    method = (
        f"Measured on the machine that wrote this report, on {where}, in float32, without loading pictures: the "
        f"median of up to {REPEATS} forward passes after a first one, for {BATCH} inputs at a time and for a single "
        "one."
    )
    return Speed(tuple(towers), method)


def image_tower(name: str, net: nn.Module, side: int, device: torch.device) -> Tower:
    """Measure a network that reads [n, 3, side, side] uint8."""
    pixels = torch.zeros(BATCH, 3, side, side, dtype=torch.uint8, device=device)
    rate, milliseconds = measured(lambda n: net(pixels[:n]), device)
    return tower(name, net, rate, milliseconds, f"{side} px")


def tower(name: str, net: nn.Module, rate: float, milliseconds: float, reads: str) -> Tower:
    """The facts about a network that was measured."""
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Tower(name, parameters, 4 * parameters, rate, milliseconds, reads)


def teacher_network(card: teachers.Card, side: int) -> nn.Module:
    """A teacher with random weights: its speed does not depend on them, and they may not be on this machine."""
    import timm

    with torch.random.fork_rng(devices=[]):
        net = card.build() if card.build else timm.create_model(card.arch, num_classes=0, **card.options_at(side))
    return teachers.Teacher(card, net)
