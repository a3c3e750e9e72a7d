"""Scene classifiers: the networks that MIT CSAIL trained on Places365.

The files were written by ``torch.save`` in 2017. In their ``state_dict`` every key has the prefix ``module.``, batch
norms have no counters, and DenseNet's layers have the names of torchvision before 0.3, with a dot before the number.
They are loaded with ``weights_only``. The files called ``whole_…`` hold code and are refused.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from teachers.card import IMAGENET, Card
from teachers.checkpoint import read_weights

if TYPE_CHECKING:
    import torch

ADDRESS = "http://places2.csail.mit.edu/models_places365"


def downloaded_path(file: str, card: str) -> Path:
    """The path of one of CSAIL's files in the folder where torch.hub keeps downloads.

    Args:
        file: its name.
        card: the name of the teacher, for the error.

    Raises:
        ConnectionError: if it is not there; the message says where to get it.
    """
    from torch.hub import get_dir

    path = Path(get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise ConnectionError(
            f"The weights of '{card}' are not on this machine. Fetch {ADDRESS}/{file} and put it into {path.parent}, "
            "or name it as teacher.N.weights."
        )
    return path


def read(path: Path) -> dict[str, torch.Tensor]:
    """The weights in one of CSAIL's files, under timm's names: ``norm.1`` of a DenseNet becomes ``norm1``.

    Raises:
        ValueError: if the file is damaged or holds code.
    """
    state = read_weights(path)
    return {re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", key): value for key, value in state.items()}


def _card(arch: str, width: int, parameters: int) -> Card:
    file = f"{arch}_places365.pth.tar"
    return Card(
        name=f"places/{arch}",
        arch=arch,
        width=width,
        classes=365,
        image_size=224,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        interpolation="bilinear",
        parameters=parameters,
        data="Places365-Standard",
        licence="CC BY",
        source=f"CSAIL, {file}",
        url=f"{ADDRESS}/{file}",
        paper="Zhou et al., Places: A 10 million image database for scene recognition, TPAMI 2017",
        checked="layout",
        file=partial(downloaded_path, file, f"places/{arch}"),
        read=read,
    )


CARDS = [
    _card("resnet18", 512, 11_176_512),
    _card("resnet50", 2048, 23_508_032),
    _card("densenet161", 2208, 26_472_000),
]
