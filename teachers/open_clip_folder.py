"""Folders of open_clip, as its ``save_for_hf`` writes them and ``local-dir:FOLDER`` reads them.

===============================  =======================================================
``open_clip_config.json``        architecture and preprocessing
``open_clip_model.safetensors``  the weights; the file with a pickle is not read
``tokenizer.json`` and others    where the text tower has another tokenizer than CLIP's
===============================  =======================================================

Network and tokenizer are open_clip's own. A card is made from the configuration and the file's header, without it.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from teachers.card import Card
from teachers.folder import import_library, load_json
from teachers.hugging_face import find_tokenizer
from teachers.preprocessing import of_open_clip
from teachers.weight_files import number, shape_of, shapes, weight_files

LIBRARY, COMMAND = "open_clip", "pip install 'distill[open-clip]'"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model"


def is_folder(folder: Path) -> bool:
    """Whether a folder is open_clip's, and not one that timm loads too."""
    timm = (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()
    return (folder / CONFIG).is_file() and ((folder / f"{WEIGHTS}.safetensors").is_file() or not timm)


def towers(folder: Path) -> dict[str, Callable[[], Card]]:
    """By modality, what makes the card of each tower of a folder.

    Raises:
        ValueError: if its configuration is missing or damaged, or describes a model that cannot be loaded.
    """
    model = configuration(folder)["model_cfg"]
    if name := model["text_cfg"].get("hf_model_name"):
        raise ValueError(
            f"{folder / CONFIG} has the text tower '{name}' of transformers, which open_clip looks up on the hub. "
            "Save it in transformers' own format, or name another teacher."
        )
    if "multimodal_cfg" in model:
        raise ValueError(f"{folder / CONFIG} describes a CoCa, whose towers are not a CLIP's. Name another teacher.")
    return {modality: partial(card, folder, modality) for modality in ("image", "text")}


def configuration(folder: Path) -> dict[str, Any]:
    """The content of ``open_clip_config.json``; raises ``ValueError`` if it is missing or damaged."""
    config = load_json(folder / CONFIG, dict)
    model = config.get("model_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(f"{p}_cfg"), dict) for p in ("text", "vision")):
        raise ValueError(f"{folder / CONFIG} is damaged: it describes no two towers. Save the model again.")
    return config


def card(folder: Path, modality: str) -> Card:
    """The card of one tower of a folder.

    Raises:
        ValueError: if a file is missing or damaged, or the weights are not those of the configuration.
    """
    config, path = configuration(folder), folder / CONFIG
    model, files = config["model_cfg"], weight_files(folder, WEIGHTS)
    text, width = model["text_cfg"], model.get("embed_dim")
    found, scale = shapes(files), number(files, "logit_scale")
    context = text.get("context_length", 77)
    positions = shape_of(found, "text.positional_embedding" if text_is_apart(found) else "positional_embedding")
    if positions and positions != (context, text.get("width", 512)):
        raise ValueError(
            f"The weights in {folder} are not those of its {CONFIG}: the text tower's positional_embedding is "
            f"{positions} instead of {(context, text.get('width', 512))}. Both must be of one model: save it again."
        )
    if not isinstance(width, int):
        raise ValueError(f"{path} is damaged: embed_dim is {width!r} and no number. Save the model again.")
    about = Card(
        name=f"local/{folder.name}/{modality}",
        modality="image" if modality == "image" else "text",
        library="open_clip",
        arch=str(model["vision_cfg"].get("timm_model_name") or "open_clip"),
        width=width,
        temperature=math.exp(-scale) if scale is not None else 0.0,
        licence="see the model's page",
        source=str(folder),
        file=partial(Path, folder),
    )
    if modality == "image":
        preprocess = of_open_clip(path, config.get("preprocess_cfg") or {}, model)
        return replace(about, **preprocess._asdict())
    if text.get("hf_tokenizer_name"):
        find_tokenizer(folder)
    return replace(about, context=context)


def text_is_apart(found: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the text tower's weights are under ``text.``, as in open_clip's CustomTextCLIP."""
    return any(name.startswith("text.") for name in found)


def files(card: Card, folder: Path) -> list[Path]:
    """The files on which the embeddings of a tower depend."""
    own = card.modality == "text" and configuration(folder)["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    return [folder / CONFIG, *weight_files(folder, WEIGHTS), *(find_tokenizer(folder) if own else [])]


class Features(nn.Module):
    """A tower of open_clip, from pixels or token ids to the embedding [n, P], not normalised."""

    def __init__(self, net: Any, modality: str) -> None:
        super().__init__()
        self.net, self.modality = net, modality

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.net.encode_image(inputs) if self.modality == "image" else self.net.encode_text(inputs)
        assert isinstance(found, torch.Tensor)
        return found


def load_network(card: Card, folder: Path, side: int) -> nn.Module:
    """Load a tower; all of its weights must be there and fit.

    Raises:
        ImportError: if open_clip is not installed; the message says what to run.
        ValueError: if it cannot be built, or the weights do not fit.
    """
    library = import_library(LIBRARY, card, COMMAND)
    model = copy.deepcopy(configuration(folder)["model_cfg"])
    vision, custom = model["vision_cfg"], model.pop("custom_text", False)
    own_side = vision.get("image_size", 224)
    of_timm = bool(vision.get("timm_model_name"))
    if of_timm:
        vision["timm_model_pretrained"] = False  # it would be downloaded
    elif card.modality == "image":
        vision["image_size"] = side  # open_clip interpolates the positions when it loads them
    before = logging.getLogger().level
    try:
        net = (library.CustomTextCLIP if custom else library.CLIP)(**model)
        library.load_checkpoint(net, str(weight_files(folder, WEIGHTS)[0]), strict=True, device="cpu")
        if of_timm and card.modality == "image" and side != own_side:
            net.visual.set_input_size(side)
    except Exception as error:  # each architecture raises its own errors for wrong settings and weights
        reason = str(error).replace("\n", " ")
        raise ValueError(
            f"open_clip cannot load {folder} for {side} pixels: {reason[:400]} Leave out teacher.N.image_size, or "
            "save the model again."
            if card.modality == "image" and side != own_side
            else f"The weights in {folder} are not those of its {CONFIG}: {reason[:400]} Save the model again."
        ) from error
    finally:
        logging.getLogger().setLevel(before)
    remove_other_tower(net, card.modality)
    return Features(net.float(), card.modality)


def remove_other_tower(net: Any, modality: str) -> None:
    """Remove the weights of the tower that is not used."""
    if modality == "text":
        net.visual = None
        return
    for name in ("text", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"):
        if hasattr(net, name):
            setattr(net, name, None)


def text_encoder(card: Card, folder: Path) -> Callable[[Sequence[str]], torch.Tensor]:
    """From texts to token ids [n, context], by the tokenizer that open_clip takes for the folder.

    Raises:
        ImportError: if open_clip is not installed; the message says what to run.
        ValueError: if the tokenizer cannot be read, or has more tokens than the network.
    """
    library = import_library(LIBRARY, card, COMMAND)
    try:
        own = library.get_tokenizer(f"local-dir:{folder}", context_length=card.context)
        size = own.vocab_size if hasattr(own, "vocab_size") else len(own.tokenizer)
    except Exception as error:  # each tokenizer raises its own errors for missing and damaged files
        raise ValueError(f"The tokenizer in {folder} cannot be read: {error} Save it beside the model.") from error
    vocab = shape_of(shapes(weight_files(folder, WEIGHTS)), "token_embedding.weight")[0]
    if size > vocab:
        raise ValueError(
            f"The tokenizer of {folder} has {size} tokens, its network {vocab}. They must be a pair: save both of one "
            "model."
        )

    def encode(texts: Sequence[str]) -> torch.Tensor:
        found: torch.Tensor = own(list(texts)) if texts else torch.zeros(0, card.context, dtype=torch.int64)
        return found

    return encode
