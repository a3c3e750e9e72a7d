"""The schema of an export's ``config.json``, from which the towers can be built without the run, with timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import students
from distill.errors import UserError, as_user_errors
from distill.files import read_table

CONFIG, FORMAT = "config.json", "distill-export/1"


class NetConfig(BaseModel):
    """A timm network and the normalisation of its input.

    Attributes:
        arch, options: the arguments of ``timm.create_model``.
        mean, std: of the three channels, for pixels in [0, 1].
    """

    model_config = ConfigDict(extra="forbid")

    arch: str
    options: dict[str, Any] = {}
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageConfig(NetConfig):
    """The image tower and its preprocessing: largest central square, resized, divided by 255, normalised.

    If ``layers`` is above 0 the tower is a FlexiLiT: a trained MLP maps the pooled features of the locked network, and
    those of the network ``beside`` it, to the embedding.

    Attributes:
        width: the outputs of the network's last linear layer; 0 for pooled features.
        image_size: the side of the input, in pixels.
        interpolation: with which images are resized.
        layers: the number of layers of the MLP; 0 for none.
        beside: the trained network beside the locked one.
    """

    width: int
    image_size: int
    interpolation: str
    layers: int = 0
    beside: NetConfig | None = None


class TextConfig(BaseModel):
    """The text tower.

    Attributes:
        spec: "arch", its architecture (a module of ``students/texts/``), and the options of that architecture.
        vocab: the number of token ids.
    """

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any]
    vocab: int

    def tower_class(self) -> type[students.TextTower]:
        """The class of the tower.

        Raises:
            UserError: if no such architecture is installed.
        """
        with as_user_errors():
            return students.text_tower_class(str(self.spec.get("arch")))

    def options(self) -> students.TextOptions:
        """The options of the tower; raises ``UserError`` if they do not fit its architecture."""
        with as_user_errors():
            return self.tower_class().Options(**{key: value for key, value in self.spec.items() if key != "arch"})


class Config(BaseModel):
    """``config.json`` of an export.

    Attributes:
        width: D, the width of both towers' embeddings.
        temperature: τ as learned; similarities are divided by it.
        image, text: the towers; text is null where there is no text tower.
        provenance: how the towers were trained. Loading ignores it; evaluations read captions as its recipe says.
        files: the SHA-256 of each file of the export; empty in exports of earlier versions.
        sha256: of this configuration without this key; "" in exports of earlier versions.
    """

    model_config = ConfigDict(extra="forbid")

    format: str = FORMAT
    width: int
    temperature: float
    image: ImageConfig
    text: TextConfig | None
    provenance: dict[str, Any]
    files: dict[str, str] = {}
    sha256: str = ""


def read_config(folder: Path) -> Config:
    """Read ``config.json``.

    Raises:
        UserError: if the folder is not an export, or has the format of another version.
    """
    try:
        config = Config.model_validate(read_table(folder / CONFIG, json.loads))
    except ValueError as error:  # pydantic's ValidationError is one
        raise UserError(
            f"{folder} is neither an export nor a run.",
            "Name a folder that 'distill export' or 'distill train' wrote.",
        ) from error
    if config.format != FORMAT:
        raise UserError(
            f"{folder} is an export of another format ({config.format}); this version reads {FORMAT}.",
            "Export the run again, or install the version that wrote it.",
        )
    return config
