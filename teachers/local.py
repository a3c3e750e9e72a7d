"""Cards for the user's own teachers: a folder of timm, transformers, open_clip or sentence-transformers, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from teachers import hugging_face, open_clip_folder
from teachers.card import Card
from teachers.folder import load_json
from teachers.hub import card_from_config

# Names of the file with the weights that timm, transformers and sentence-transformers use, safetensors first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "pytorch_model.pth")
# Arguments for timm.create_model in a folder's config that are ignored: loading sets them itself, or they name files.
IGNORED_ARGUMENTS = frozenset(
    {"num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
)
CONTEXT = 64  # tokens a text, at most; the same as the packaged text teacher's


def is_path(name: str) -> bool:
    """Whether a teacher's name is a path: it begins with ``/``, ``./``, ``../`` or ``~``."""
    return name.startswith(("/", "./", "../", "~"))


def local_towers(name: str) -> dict[str, Callable[[], Card]]:
    """By modality, what makes the card of each tower in a folder of timm, transformers, open_clip or
    sentence-transformers.

    Args:
        name: the path of a folder with a ``config.json`` and weights.

    Raises:
        LookupError: if there is no such folder, or it is a file, which does not name its architecture.
        ValueError: if the folder is none of these.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise LookupError(
            f"{folder} is a file, and does not say of which network its weights are. Set teacher.N.name = "
            f'"timm/ARCH" and teacher.N.weights = "{folder}".'
        )
    if not folder.is_dir():
        raise LookupError(f"There is no folder {folder}. Correct teacher.N.name.")
    if open_clip_folder.is_folder(folder):
        return guarded(folder / open_clip_folder.CONFIG, open_clip_folder.towers(folder))
    path = folder / "config.json"
    config = load_json(path, dict)
    if "architecture" in config:
        return guarded(path, {"image": partial(image_card, folder, config)})
    pooled_elsewhere = (folder / "1_Pooling").is_dir() or (folder / "modules.json").is_file()
    if hugging_face.is_folder(config) and not pooled_elsewhere:
        return guarded(path, hugging_face.towers(folder, config))
    if "model_type" in config:
        return guarded(path, {"text": partial(text_card, folder, config)})
    raise ValueError(
        f"{folder / 'config.json'} names neither a timm architecture nor a model_type of transformers. Save the "
        "encoder with timm, transformers, open_clip or sentence-transformers."
    )


def guarded(path: Path, towers: Mapping[str, Callable[[], Card]]) -> dict[str, Callable[[], Card]]:
    """The same functions, which raise ``ValueError`` where a configuration has values of another type."""

    def make(modality: str) -> Card:
        try:
            return towers[modality]()
        except (TypeError, AttributeError, KeyError, IndexError) as error:
            raise ValueError(f"{path} is damaged: {error}. Save the encoder again.") from error

    return {modality: partial(make, modality) for modality in towers}


def image_card(folder: Path, config: Mapping[str, Any]) -> Card:
    """The card of a folder that timm's ``save_for_hf`` has written.

    Args:
        config: of its ``config.json``.

    Raises:
        ValueError: if timm cannot build the network.
        TypeError, AttributeError, KeyError, IndexError: if the config is damaged.
    """
    merged = {**config, **(config.get("pretrained_cfg") or {})}
    merged = {key: value for key, value in merged.items() if value is not None}
    classes = whole_number("num_classes", config.get("num_classes") or merged.get("num_classes") or 0)
    arguments = dict(config.get("model_args") or {})
    options = {key: value for key, value in arguments.items() if key not in IGNORED_ARGUMENTS}
    card = card_from_config(f"local/{folder.name}", config["architecture"], options, merged)
    return replace(
        card,
        classes=classes,
        source=str(folder),
        file=partial(find_weights, folder),
    )


def whole_number(key: str, value: object) -> int:
    """The value of a key of ``config.json`` that must be a whole number.

    Raises:
        TypeError: if it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{key} is {value!r} and no number")
    return value


def text_card(folder: Path, config: Mapping[str, Any]) -> Card:
    """The card of a sentence encoder's folder, see teachers/folder.py.

    Args:
        config: of its ``config.json``.

    Raises:
        TypeError: if the config is damaged.
    """
    longest = config.get("max_position_embeddings", CONTEXT)
    return Card(
        name=f"local/{folder.name}",
        modality="text",
        arch=str(config["model_type"]),
        width=whole_number("hidden_size", config.get("hidden_size", config.get("dim", 0))),
        context=min(CONTEXT, whole_number("max_position_embeddings", longest)),
        licence="see the model's page",
        source=str(folder),
        file=partial(Path, folder),
    )


def find_weights(folder: Path) -> Path:
    """The path of the file with the weights in a folder.

    Raises:
        ValueError: if there is none.
    """
    found = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{folder} holds no weights: there is no {' and no '.join(WEIGHT_FILES)}.")
    return found[0]


def with_weights(card: Card, path: str, sha256: str = "") -> Card:
    """A card with its weights replaced by those in a file of the user's.

    Args:
        card: of an image teacher with the same architecture.
        path: the file.
        sha256: the file's expected SHA-256, or its first digits; "": the card's own, if it has one.

    Raises:
        ValueError: if the card is a text teacher's, whose weights are a folder, or its network is not one of timm's.
    """
    if card.library:
        raise ValueError(f"The teacher '{card.name}' is a folder with its weights. Leave out teacher.N.weights.")
    if card.modality == "text":
        raise ValueError(f"The text teacher '{card.name}' is a folder. Name that folder as teacher.N.name.")
    file = Path(path).expanduser()
    if card.build is not None:
        raise ValueError(f"The network of '{card.name}' is none of timm's; its weights come with its package only.")
    # ``read`` of a packaged teacher translates the package's own names; the user's file has timm's names.
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
