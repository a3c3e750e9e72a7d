"""Builds towers from the configuration and the tensors of an export."""

from __future__ import annotations

import torch
from torch import nn

import students
from distill.errors import UserError, as_user_errors
from distill.ship.config_file import ImageConfig, NetConfig
from distill.ship.contents import Shipped
from distill.ship.image_text import ImageText
from launch.group import default_device


def build(shipped: Shipped, device: str | None) -> ImageText:
    """Build the towers of an export and load their weights.

    Args:
        shipped: the content of the export.
        device: a torch device; None for the default one, a GPU if there is one.

    Raises:
        UserError: if the tensors do not fit the configuration, or the device is not available.
    """
    config, towers = shipped.config, dict[str, nn.Module]()
    with as_user_errors():
        towers["image"] = image_tower(config.image, config.width)
        if config.text is not None:
            towers["text"] = config.text.tower_class()(config.text.options(), config.text.vocab, config.width)
    for modality, tower in towers.items():
        network = tower.net if isinstance(tower, students.ImageTower) else tower
        try:
            network.load_state_dict(shipped.tower(modality), strict=True)
        except RuntimeError as error:
            raise UserError(
                f"The {modality} tower's weights do not fit its configuration: {error}.", "Export the run again."
            ) from error
    try:
        torch_device = torch.device(device) if device else default_device()
        return ImageText(config, towers["image"], towers.get("text"), shipped.tokenizer, torch_device)
    except (RuntimeError, AssertionError) as error:  # torch raises these for a device that is not available
        raise UserError(f"The device '{device}' cannot be used: {error}.", "Correct --device.") from error


def image_tower(config: ImageConfig, width: int) -> nn.Module:
    """Build the image tower of a configuration with random weights; ``width`` is D."""
    net = image_network(config, config.width, config.image_size)
    if not config.layers:
        return net
    beside = image_network(config.beside, 0, config.image_size) if config.beside else None
    beside_width = beside.features(config.image_size) if beside else 0
    top = students.OnTeacher(net.features(config.image_size), width, config.layers, beside, beside_width)
    return students.HalfLocked(net, top)


def image_network(config: NetConfig, width: int, image_size: int) -> students.ImageTower:
    """Build a timm network with its input normalisation; ``width`` 0 gives pooled features."""
    spec = students.ImageSpec(arch=config.arch, **config.options)
    return students.image_tower(spec, width, image_size, (config.mean, config.std))
