"""Cards of timm's pretrained models, whose weights are on the Hugging Face hub: written by hand, or made on demand."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from teachers.card import Card, Channels

MAX_TESTED = 30_000_000  # parameters; tests load each smaller card from a file of random weights in its layout


def hub_card(
    name: str,
    arch: str,
    *,
    width: int,
    image_size: int,
    statistics: tuple[Channels, Channels],
    parameters: int,
    data: str,
    paper: str,
    classes: int = 0,
    fixed_size: bool = False,
    licence: str = "apache-2.0",
    hub: str = "",
) -> Card:
    """The card of a timm model that is listed under a name of its own.

    Args:
        arch: ``ARCH.TAG``, timm's name.
        statistics: mean and standard deviation of the input's channels.
        paper: its number on arXiv.
        hub: the name of the repository under ``timm/`` on the hub; "": it is ``arch``.

    The other arguments are those of :class:`Card`.
    """
    repository = f"timm/{hub or arch}"
    return Card(
        name=name,
        arch=arch,
        width=width,
        classes=classes,
        image_size=image_size,
        fixed_size=fixed_size,
        mean=statistics[0],
        std=statistics[1],
        parameters=parameters,
        data=data,
        licence=licence,
        source=f"Hugging Face hub: {repository}",
        url=f"https://huggingface.co/{repository}/resolve/main/model.safetensors",
        paper=f"arXiv {paper}",
        checked="layout" if parameters <= MAX_TESTED else "configuration",
    )


@functools.cache
def timm_card(name: str) -> Card:
    """The card of ``timm/ARCH[.TAG]``, made from timm's configuration without loading weights.

    Raises:
        LookupError: if timm has no such model; the message names the nearest ones.
    """
    import timm

    arch = name.removeprefix("timm/")
    if not timm.is_model(arch.split(".")[0]):
        near = difflib.get_close_matches(arch, timm.list_models() + timm.list_pretrained(), n=3)
        hint = f"Did you mean {' or '.join('timm/' + n for n in near)}?" if near else "timm.list_models() names them."
        raise LookupError(f"timm has no model '{arch}'. {hint}")
    if "." in arch and arch not in timm.list_pretrained():
        known = timm.list_pretrained(arch.split(".")[0] + ".*")
        hint = f"It has {', '.join('timm/' + n for n in known)}." if known else "Name it without the tag."
        raise LookupError(f"timm has no pretrained model '{arch}'. {hint}")
    config = timm.get_pretrained_cfg(arch)
    assert config is not None
    repository = config.hf_hub_id if config.has_weights else ""
    card = card_from_config(name, arch, {}, config.to_dict())
    url = f"https://huggingface.co/{repository}/resolve/main/model.safetensors" if repository else ""
    source = (
        f"Hugging Face hub: {repository}" if repository else str(config.url or "nowhere: timm has no weights of it")
    )
    return replace(card, url=url, source=source)


def card_from_config(name: str, arch: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> Card:
    """A card made from timm's configuration of a model.

    Args:
        name: of the card.
        arch, options: for ``timm.create_model``.
        config: timm's ``pretrained_cfg``: ``input_size``, ``mean``, ``std``, ``interpolation`` and so on.

    Raises:
        ValueError: if timm cannot build the network.
    """
    import timm
    import torch

    side = int(config.get("input_size", (3, 224, 224))[-1])
    if not timm.is_model(arch.split(".")[0]):  # timm would look up a name such as "hf-hub:…" on the hub
        raise ValueError(f"timm cannot build '{arch}' for '{name}': it has no such model")
    # The width is the size of the network's output, which costs nothing on the meta device. A few networks in older
    # versions of timm cannot be built there, because they compute with their weights' values.
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.no_grad():
                net = timm.create_model(arch, pretrained=False, **{**options, "num_classes": 0}).eval()
                width = net(torch.zeros(1, 3, side, side)).shape[1]
            break
        except Exception as error:  # architectures raise many kinds of errors for settings that they do not accept
            if device == "cpu":
                raise ValueError(f"timm cannot build '{arch}' for '{name}': {error}") from error
    mean, std = config.get("mean", (0.5, 0.5, 0.5)), config.get("std", (0.5, 0.5, 0.5))
    return Card(
        name=name,
        arch=arch,
        options=dict(options),
        width=int(width),
        classes=int(config.get("num_classes") or 0),
        image_size=side,
        fixed_size=bool(config.get("fixed_input_size")),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        # Views are resized by these two filters only. timm also has "random", which is for training.
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        parameters=sum(p.numel() for p in net.parameters()),
        licence=config.get("license") or "see the model's page",
    )
