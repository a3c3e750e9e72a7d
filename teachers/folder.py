"""The folder of a pretrained sentence encoder, as sentence-transformers saves it.

=========================  ==================================================
``config.json``            the architecture, for transformers
``model.safetensors``      its weights; a pickle is never read
``tokenizer.json``         how a text becomes token ids
``1_Pooling/config.json``  how the tokens' embeddings become the text's
``modules.json``           what is done one after the other, if it is there
=========================  ==================================================
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, TypeVar

from teachers.card import Card

T = TypeVar("T", dict[str, Any], list[Any])

# What a folder's files say of pooling, and what it is called here. Newer ones name the mode, older ones have a
# switch for each.
POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
# Normalize is left out: losses and caches normalise for themselves, and an embedding's length can be of use.
MODULES = {"Transformer", "Pooling", "Normalize"}


def folder_of(card: Card) -> Path:
    """The folder of a text teacher.

    Raises:
        ImportError: if the package that carries it is not installed; the message says what to run.
        ValueError: if the card is not a text teacher's.
    """
    if card.modality != "text":
        raise ValueError(f"The teacher '{card.name}' embeds images; only a text teacher has a tokenizer and a folder.")
    assert card.file is not None, f"the card '{card.name}' has no folder"
    return card.file()


def library(name: str, card: Card) -> Any:
    """A library that only text teachers need, imported when the first one is loaded.

    Raises:
        ImportError: if it is not installed; the message says what to run.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"The text teacher '{card.name}' needs {name}: {error}. Run: pip install 'distill[text-teachers]'"
        ) from error


def settings(path: Path, kind: type[T]) -> T:
    """What a JSON file of the folder says.

    Args:
        kind: what it must be, ``dict`` or ``list``.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}. Save the encoder again.") from error
    if not isinstance(found, kind):
        what = "list" if kind is list else "table"
        raise ValueError(f"{path} is damaged: it is no {what}. Save the encoder again.")
    return found


def pad_of(folder: Path) -> int:
    """The token id that the network takes for "no token".

    Raises:
        ValueError: if it has none.
    """
    pad = settings(folder / "config.json", dict).get("pad_token_id")
    if not isinstance(pad, int):
        raise ValueError(f"{folder / 'config.json'} has no pad_token_id. Use an encoder that knows padding.")
    return pad


def pooling_of(folder: Path) -> str:
    """``mean`` or ``cls``.

    Raises:
        ValueError: if the folder's encoder pools otherwise, or does more than pool.
    """
    path = folder / "1_Pooling" / "config.json"
    config = settings(path, dict)
    switches = [POOLING.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    modes = config.get("pooling_mode", switches)
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLING.values():
        raise ValueError(f"{path} asks for the pooling {modes}; text teachers pool by mean or cls, by one of them.")
    if (folder / "modules.json").is_file():
        modules = settings(folder / "modules.json", list)
        kinds = {
            str(module.get("type") if isinstance(module, dict) else module).rpartition(".")[2] for module in modules
        }
        if kinds - MODULES:
            raise ValueError(
                f"{folder / 'modules.json'} has {', '.join(sorted(kinds - MODULES))} besides the Transformer and its "
                "pooling; such an encoder cannot be a text teacher."
            )
    return str(modes[0])
