"""Folders that transformers has saved: ViT, DINOv2 and DINOv3, CLIP, SigLIP and SigLIP 2.

======================================  ==========================================================
``config.json``                         the architecture
``model.safetensors``                   the weights, perhaps in several files with an index
``preprocessor_config.json``            of an image tower: how images are prepared
``tokenizer.json`` or ``spiece.model``  of a text tower: the tokenizer, with what else it consists of
======================================  ==========================================================

The networks are transformers' own, and so are the tokenizers; code in a folder is never run. A card is made from the
files' headers, without transformers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from teachers.card import Card
from teachers.folder import import_library, load_json
from teachers.hugging_face_families import FAMILIES, REFUSED, Tower
from teachers.preprocessing import of_transformers
from teachers.weight_files import Shapes, number, shape_of, shapes, weight_files

LIBRARY, COMMAND = "transformers", "pip install 'distill[text-teachers]'"
# Files of which a tokenizer may consist; one of the first column must be there.
TOKENIZERS = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
BESIDE_TOKENIZERS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
# Weights that the towers here do not have: heads of classifiers, and what only a pretraining uses.
UNUSED = re.compile(r"(^|\.)(classifier|pooler|mask_token|position_ids)(\.|$)")


def is_folder(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of a model that is loaded here, or is known not to work."""
    return config.get("model_type") in {*FAMILIES, *REFUSED}


def towers(folder: Path, config: Mapping[str, Any]) -> dict[str, Callable[[], Card]]:
    """By modality, what makes the card of each tower of a folder.

    Args:
        config: of its ``config.json``.

    Raises:
        ValueError: if it is a model that is known not to work.
    """
    kind = str(config["model_type"])
    if kind in REFUSED:
        raise ValueError(f"{folder} {REFUSED[kind]}.")
    return {modality: partial(card, folder, config, modality) for modality in FAMILIES[kind].towers}


def card(folder: Path, config: Mapping[str, Any], modality: str) -> Card:
    """The card of one tower of a folder.

    Raises:
        ValueError: if a file is missing or damaged, or the weights are not those of ``config.json``.
    """
    kind = str(config["model_type"])
    tower, files = FAMILIES[kind].towers[modality], weight_files(folder, "model")
    found = shapes(files)
    check_sizes(folder, config, found)
    sizes = [shape[place] for end, place in tower.width if (shape := shape_of(found, end))]
    if not sizes:
        raise ValueError(f"{folder} has no weights of the {modality} tower of a '{kind}'. Save the model again.")
    scale = number(files, "logit_scale")
    several = len(FAMILIES[kind].towers) > 1
    about = Card(
        name=f"local/{folder.name}/{modality}" if several else f"local/{folder.name}",
        modality="image" if modality == "image" else "text",
        library="transformers",
        arch=kind,
        width=int(sizes[0]),
        temperature=math.exp(-scale) if scale is not None else 0.0,
        licence="see the model's page",
        source=str(folder),
        file=partial(Path, folder),
    )
    if modality == "image":
        return replace(about, **of_transformers(folder)._asdict())
    find_tokenizer(folder)
    positions = shape_of(found, "position_embedding.weight")
    return replace(about, context=int(positions[0]) if positions else 0)


def check_sizes(folder: Path, config: Mapping[str, Any], found: Shapes) -> None:
    """Raise ``ValueError`` if weights have other sizes than ``config.json`` says, before they are loaded."""
    text, vision = (config.get(f"{part}_config") or {} for part in ("text", "vision"))
    stated = [
        ("visual_projection.weight", (config.get("projection_dim"), vision.get("hidden_size"))),
        ("text_projection.weight", (config.get("projection_dim"), text.get("hidden_size"))),
        ("text_model.embeddings.token_embedding.weight", (text.get("vocab_size"), text.get("hidden_size"))),
        ("vision_model.post_layernorm.weight", (vision.get("hidden_size"),)),
        ("cls_token", (None, None, config.get("hidden_size"))),
    ]
    for name, expected in stated:
        shape = shape_of(found, name)
        if shape and any(size is not None and size != own for own, size in zip(shape, expected, strict=False)):
            wanted = tuple(own if size is None else size for own, size in zip(shape, expected, strict=False))
            raise ValueError(
                f"The weights in {folder} are not those of its config.json: {name} is {shape} instead of {wanted}. "
                "Both must be of one model: save it again."
            )


def find_tokenizer(folder: Path) -> list[Path]:
    """The files of a folder's tokenizer.

    Raises:
        ValueError: if there is none.
    """
    found = [folder / name for name in TOKENIZERS if (folder / name).is_file()]
    if not found:
        raise ValueError(
            f"{folder} has no tokenizer, which its text tower needs: there is no {' and no '.join(TOKENIZERS[:2])}. "
            "Save it beside the model."
        )
    return found + [folder / name for name in BESIDE_TOKENIZERS if (folder / name).is_file()]


def files(card: Card, folder: Path) -> list[Path]:
    """The files on which the embeddings of a tower depend."""
    beside = find_tokenizer(folder) if card.modality == "text" else []
    return [folder / "config.json", *weight_files(folder, "model"), *beside]


class Features(nn.Module):
    """A tower of transformers, from pixels or token ids to the embedding [n, P]."""

    def __init__(self, net: nn.Module, tower: Tower, options: dict[str, Any]) -> None:
        super().__init__()
        self.net, self.tower, self.options = net, tower, options

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.tower.embed(self.net, inputs, self.options)
        for name in ("image_embeds", "text_embeds", "pooler_output"):
            if getattr(found, name, None) is not None:
                found = getattr(found, name)
        assert isinstance(found, torch.Tensor)
        return found


def load_network(card: Card, folder: Path, side: int) -> nn.Module:
    """Load a tower; all of its weights must be there and fit.

    Raises:
        ImportError: if transformers is not installed; the message says what to run.
        ValueError: if it cannot be built, or the weights do not fit.
    """
    library = import_library(LIBRARY, card, COMMAND)
    family, config = FAMILIES[card.arch], load_json(folder / "config.json", dict)
    named = config.get("architectures") or [""]
    network = getattr(library, named[0] if named[0] in family.networks else family.networks[0], None)
    if network is None:
        raise ValueError(f"This version of transformers has no '{card.arch}'. Run: pip install -U transformers")
    try:
        with quiet(library):
            net, report = network.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                **family.options,
            )
    except Exception as error:  # each architecture raises its own errors for wrong settings and weights
        raise ValueError(f"transformers cannot load {folder}: {error} Save the model again.") from error
    wrong = {
        "missing": sorted(report["missing_keys"]),
        "of another shape": sorted(str(one) for one in report["mismatched_keys"]),
        "not known": sorted(key for key in report["unexpected_keys"] if not UNUSED.search(key)),
    }
    if any(wrong.values()):
        what = "; ".join(f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in wrong.items() if keys)
        raise ValueError(f"The weights in {folder} are not those of its config.json: {what}. Save the model again.")
    tower = family.towers[card.modality]
    for part in tower.parts:
        setattr(net, part, None)
    vision = config.get("vision_config") or config
    other = family.interpolates and card.modality == "image" and side != vision.get("image_size", 224)
    return Features(net, tower, {"interpolate_pos_encoding": True} if other else {})


class quiet:  # noqa: N801
    """Within this block transformers shows no progress and no report of weights, which are checked here."""

    def __init__(self, library: Any) -> None:
        self.logging = library.utils.logging

    def __enter__(self) -> None:
        self.before = self.logging.get_verbosity(), self.logging.is_progress_bar_enabled()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.logging.set_verbosity(self.before[0])
        if self.before[1]:
            self.logging.enable_progress_bar()


def text_encoder(card: Card, folder: Path) -> Callable[[Sequence[str]], torch.Tensor]:
    """From texts to the token ids [n, context] of the folder's tokenizer, as transformers itself reads it.

    Raises:
        ImportError: if transformers is not installed; the message says what to run.
        ValueError: if it cannot be read, or has more tokens than the network.
    """
    library = import_library(LIBRARY, card, COMMAND)
    try:
        own = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        size, pad = len(own), own.pad_token
    except Exception as error:  # each tokenizer raises its own errors for missing and damaged files
        raise ValueError(f"The tokenizer in {folder} cannot be read: {error} Save it beside the model.") from error
    vocab = shape_of(shapes(weight_files(folder, "model")), "token_embedding.weight")[0]
    if size > vocab or pad is None:
        what = "has no padding token" if pad is None else f"has {size} tokens, its network {vocab}"
        raise ValueError(f"The tokenizer in {folder} {what}. They must be a pair: save both of one model.")

    def encode(texts: Sequence[str]) -> torch.Tensor:
        if not texts:
            return torch.zeros(0, card.context, dtype=torch.int64)
        options = {"padding": "max_length", "truncation": True, "max_length": card.context}
        found: torch.Tensor = own(list(texts), return_tensors="pt", **options).input_ids
        return found

    return encode
