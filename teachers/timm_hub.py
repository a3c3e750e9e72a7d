"""Cards for timm's own pretrained models, made from timm's configuration without loading anything."""

from __future__ import annotations

import difflib
import functools

from teachers.card import Card


@functools.cache
def timm_card(name: str) -> Card:
    """The card of ``timm/ARCH[.TAG]``.

    Raises:
        LookupError: if timm has no such pretrained model; the message names the nearest ones.
    """
    import timm
    import torch

    arch = name.removeprefix("timm/")
    known = timm.list_pretrained()
    if arch not in known and arch not in {k.split(".")[0] for k in known}:
        near = difflib.get_close_matches(arch, known, n=3)
        hint = (
            f"Did you mean {' or '.join('timm/' + n for n in near)}?" if near else "timm.list_pretrained() names them."
        )
        raise LookupError(f"timm has no pretrained model '{arch}'. {hint}")
    config = timm.get_pretrained_cfg(arch)
    assert config is not None
    mean, std = config.mean, config.std
    # On the meta device a network has shapes but no weights: the width is what it says, at no cost.
    with torch.device("meta"), torch.no_grad():
        net = timm.create_model(arch, pretrained=False, num_classes=0).eval()
        width = net(torch.empty(1, *config.input_size)).shape[1]
    return Card(
        name=name,
        arch=arch,
        width=width,
        classes=config.num_classes or 0,
        image_size=int(config.input_size[-1]),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        interpolation=config.interpolation or "bicubic",
        parameters=sum(p.numel() for p in net.parameters()),
        licence=config.license or "see the model's page",
        source=f"Hugging Face hub: {config.hf_hub_id or config.url or 'timm'}",
    )
