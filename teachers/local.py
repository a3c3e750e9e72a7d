"""Teachers of the user's own: a folder or a file on this machine, without a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from teachers.card import Card
from teachers.folder import settings
from teachers.hub import described

# What timm, transformers and sentence-transformers call the file with the weights, the safe one first.
FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "pytorch_model.pth")
# Of a folder's arguments for timm.create_model those that loading says itself, and those that name further files.
OWN = frozenset(
    {"num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
)
CONTEXT = 64  # tokens a text; as of the packaged text teacher


def is_path(name: str) -> bool:
    """Whether a teacher's name is a path: it says so by how it starts."""
    return name.startswith(("/", "./", "../", "~"))


def local_card(name: str) -> Card:
    """The card of a folder that timm or sentence-transformers has saved.

    Args:
        name: the path; a folder with a ``config.json`` and weights.

    Raises:
        LookupError: if there is no such folder, or a lone file, which does not say what it is the weights of.
        ValueError: if the folder is of neither.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise LookupError(
            f"{folder} is a file, and does not say of which network its weights are. Set teacher.N.name = "
            f'"timm/ARCH" and teacher.N.weights = "{folder}".'
        )
    if not folder.is_dir():
        raise LookupError(f"There is no folder {folder}. Correct teacher.N.name.")
    config = settings(folder / "config.json", dict)
    try:
        if "architecture" in config:
            return image_card(folder, config)
        if "model_type" in config:
            return text_card(folder, config)
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}. Save the encoder again.") from error
    raise ValueError(
        f"{folder / 'config.json'} names neither a timm architecture nor a model_type of transformers. Save the "
        "encoder with timm or sentence-transformers."
    )


def image_card(folder: Path, config: Mapping[str, Any]) -> Card:
    """The card of what ``timm.models.push_to_hf_hub`` and ``save_for_hf`` write."""
    said = {**config, **(config.get("pretrained_cfg") or {})}
    about = {key: value for key, value in said.items() if value is not None}
    classes = number("num_classes", config.get("num_classes") or about.get("num_classes") or 0)
    options = {key: value for key, value in dict(config.get("model_args") or {}).items() if key not in OWN}
    card = described(f"local/{folder.name}", config["architecture"], options, about)
    return replace(
        card,
        classes=classes,
        source=str(folder),
        file=partial(weights_in, folder),
    )


def number(key: str, value: object) -> int:
    """A whole number that a folder's settings give."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{key} is {value!r} and no number")
    return value


def text_card(folder: Path, config: Mapping[str, Any]) -> Card:
    """The card of a sentence encoder, see teachers/folder.py."""
    longest = config.get("max_position_embeddings", CONTEXT)
    return Card(
        name=f"local/{folder.name}",
        modality="text",
        arch=str(config["model_type"]),
        width=number("hidden_size", config.get("hidden_size", config.get("dim", 0))),
        context=min(CONTEXT, number("max_position_embeddings", longest)),
        licence="see the model's page",
        source=str(folder),
        file=partial(Path, folder),
    )


def weights_in(folder: Path) -> Path:
    """The file with the weights in a folder.

    Raises:
        ValueError: if there is none.
    """
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{folder} holds no weights: there is no {' and no '.join(FILES)}.")
    return found[0]


def with_weights(card: Card, path: str, sha256: str = "") -> Card:
    """A card with the weights in a file of the user's in place of its own.

    Args:
        card: of the architecture.
        path: the file.
        sha256: its hash or the first digits of it; "" accepts any.

    Raises:
        ValueError: if the card embeds texts, whose weights are a folder, or its network is none of timm's.
    """
    if card.modality == "text":
        raise ValueError(f"The text teacher '{card.name}' is a folder. Name that folder as teacher.N.name.")
    file = Path(path).expanduser()
    if card.build is not None:
        raise ValueError(f"The network of '{card.name}' is none of timm's; its weights come with its package only.")
    # A package's names are its own; a file of the user's has timm's.
    read = None if card.name.startswith("packaged/") else card.read
    return replace(
        card,
        file=partial(Path, file),
        read=read,
        sha256=sha256 or card.sha256,
        source=str(file),
        install="",
        checked="",
    )
