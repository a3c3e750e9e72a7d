"""The folder of a pretrained sentence encoder, as sentence-transformers saves it.

=========================  ==================================================
``config.json``            the architecture, for transformers
``model.safetensors``      the weights; files with pickles are not read
``tokenizer.json``         the tokenizer
``1_Pooling/config.json``  how the tokens' embeddings are pooled into the text's
``modules.json``           the sequence of modules; optional
=========================  ==================================================
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, TypeVar

from teachers.card import Card

T = TypeVar("T", dict[str, Any], list[Any])

# The pooling modes that are supported. Newer folders name the mode (a value here), older ones have a switch for each
# mode (a key here).
POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
# The modules that an encoder may have. Normalize is allowed but not run: losses and caches normalise embeddings
# themselves, and may need their length.
MODULES = {"Transformer", "Pooling", "Normalize"}


def text_teacher_folder(card: Card) -> Path:
    """The folder of a text teacher.

    Raises:
        ImportError: if the package that contains it is not installed; the message says what to run.
        ValueError: if the card is an image teacher's.
    """
    if card.modality != "text":
        raise ValueError(f"The teacher '{card.name}' embeds images; only a text teacher has a tokenizer and a folder.")
    assert card.file is not None, f"the card '{card.name}' has no folder"
    return card.file()


def import_library(name: str, card: Card, command: str = "pip install 'distill[text-teachers]'") -> Any:
    """Import a library that only some teachers need, such as transformers.

    Args:
        name: the module.
        card: the teacher's, for the error.
        command: what installs the library.

    Raises:
        ImportError: if it is not installed; the message says what to run.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"The teacher '{card.name}' needs {name}: {error}. Run: {command}") from error


def sentence_encoder_files(card: Card, folder: Path) -> list[Path]:
    """The files on which the embeddings of a sentence encoder depend. Not the weights of one that comes in a package:
    they are in the fingerprint of the loaded network."""
    names = ["config.json", "1_Pooling/config.json", "tokenizer.json"]
    names += ["model.safetensors"] if card.name.startswith("local/") else []
    return [folder / name for name in names]


def load_json(path: Path, kind: type[T]) -> T:
    """Load a JSON file of the folder.

    Args:
        path: the file.
        kind: the type that it must contain, ``dict`` or ``list``.

    Raises:
        ValueError: if it is missing or damaged, or contains another type.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}. Save the encoder again.") from error
    if not isinstance(found, kind):
        what = "list" if kind is list else "table"
        raise ValueError(f"{path} is damaged: it is no {what}. Save the encoder again.")
    return found


def pad_token_id(folder: Path) -> int:
    """The id of the encoder's padding token.

    Raises:
        ValueError: if it has none.
    """
    pad = load_json(folder / "config.json", dict).get("pad_token_id")
    if not isinstance(pad, int):
        raise ValueError(f"{folder / 'config.json'} has no pad_token_id. Use an encoder that knows padding.")
    return pad


def pooling_mode(folder: Path) -> str:
    """How the encoder pools the tokens' embeddings: ``mean`` or ``cls``.

    Raises:
        ValueError: if it pools in another way, or has modules besides the network and its pooling.
    """
    path = folder / "1_Pooling" / "config.json"
    config = load_json(path, dict)
    switches = [POOLING.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    modes = config.get("pooling_mode", switches)
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLING.values():
        raise ValueError(f"{path} asks for the pooling {modes}; text teachers pool by mean or cls, by one of them.")
    if (folder / "modules.json").is_file():
        modules = load_json(folder / "modules.json", list)
        kinds = {
            str(module.get("type") if isinstance(module, dict) else module).rpartition(".")[2] for module in modules
        }
        if kinds - MODULES:
            raise ValueError(
                f"{folder / 'modules.json'} has {', '.join(sorted(kinds - MODULES))} besides the Transformer and its "
                "pooling; such an encoder cannot be a text teacher."
            )
    return str(modes[0])
