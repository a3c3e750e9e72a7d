"""Folders of transformers with a text encoder of BERT, CLIP or SigLIP: configuration, pooling and weights.

``config.json`` is that of the encoder alone, or of a whole CLIP or SigLIP, of which the text encoder is read. Weights
are read from safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from students.optional import import_library

COMMAND = "pip install 'distill[text-teachers]'"
# What of a configuration decides what is computed. All of it is kept, as other versions may have other defaults.
KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("max_position_embeddings", "layer_norm_eps", "initializer_range", "initializer_factor", "pad_token_id"),
    *("eos_token_id", "type_vocab_size", "hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"),
)
POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}  # of sentence-transformers
LONGEST = 64  # tokens of a text, if a recipe says nothing; as of text teachers


@dataclass(frozen=True)
class Family:
    """One kind of text encoder.

    Attributes:
        name: for messages.
        network: its class in transformers; that of its configuration has "Config" instead of "Model".
        prefixes: of the encoder's names in files with more than the encoder.
        projection: the name of the file's own projection to an embedding; "" if there is none.
        pools: how it can be pooled; the first one is its own way.
    """

    name: str
    network: str
    prefixes: tuple[str, ...]
    projection: str
    pools: tuple[str, ...]


BERT = Family("BERT", "BertModel", ("bert.",), "", ("cls", "mean"))
CLIP = Family("CLIP", "CLIPTextModel", ("text_model.",), "text_projection", ("eos", "mean"))
SIGLIP = Family("SigLIP", "SiglipTextModel", ("text_model.",), "head", ("last", "mean"))
FAMILIES = {"bert": BERT, "clip_text_model": CLIP, "siglip_text_model": SIGLIP}
WHOLE = {"clip": "clip_text_model", "siglip": "siglip_text_model"}  # models that contain such an encoder
PARTS = ("embeddings.", "encoder.", "final_layer_norm.")  # of an encoder; all else is a pooler or a head


def family_of(config: dict[str, Any]) -> Family:
    """The family of a configuration.

    Raises:
        ValueError: if it is of another kind.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"A text tower cannot be built like a '{kind}'; it can be a {', '.join(sorted(FAMILIES))}, or that of "
            f"a {' or '.join(WHOLE)}. Name another folder as student.text.like."
        )
    return FAMILIES[kind]


def network_config(config: dict[str, Any]) -> Any:
    """The configuration as an object of transformers, with its defaults.

    Raises:
        ImportError: if transformers is not installed.
        ValueError: if transformers does not accept it.
    """
    transformers, family = import_library("transformers", "hugging_face", COMMAND), family_of(config)
    try:
        kept = {key: value for key, value in config.items() if key in KEPT}
        return getattr(transformers, family.network.replace("Model", "Config"))(**kept)
    except Exception as error:  # each configuration raises its own errors
        raise ValueError(f"transformers does not accept this configuration: {error} Correct student.text.") from error


def read_config(folder: Path) -> dict[str, Any]:
    """What of a folder's ``config.json`` decides what its text encoder computes, with all defaults.

    Raises:
        ImportError: if transformers is not installed.
        ValueError: if it is missing or damaged, or of a kind that is not supported.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") in WHOLE:
        config = dict(config.get("text_config") or {}) | {"model_type": WHOLE[config["model_type"]]}
    family = family_of(config)
    if config.get("is_decoder") or config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f"{folder} is no plain {family.name}: it is a decoder, or has relative positions. Name another."
        )
    complete = network_config(config)
    kept = {key: getattr(complete, key, None) for key in KEPT}
    return {"model_type": config["model_type"]} | {k: v for k, v in kept.items() if v is not None}


def read_pool(folder: Path, family: Family) -> str:
    """How a folder's encoder is pooled: what sentence-transformers has saved, or else the family's own way."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return family.pools[0]
    config = read_json(path)
    named = config.get("pooling_mode") or [POOLING.get(key, key) for key in config if config[key] is True]
    names = [named] if isinstance(named, str) else [name for name in named if name != "include_prompt"]
    if len(names) != 1 or names[0] not in family.pools:
        raise ValueError(
            f"{path} pools by {', '.join(map(str, names))}, a text tower like it by {' or '.join(family.pools)}. "
            "Set student.text.pool."
        )
    return str(names[0])


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder's text encoder: ``net.*`` in transformers' names, ``head.*`` for its own projection.

    Raises:
        ValueError: if they are missing or damaged.
    """
    family, state = family_of(read_config(folder)), dict[str, torch.Tensor]()
    for path in weight_files(folder):
        try:
            state |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is missing or damaged: {error}. Only safetensors are read.") from error
    prefix = next((p for p in family.prefixes if any(name.startswith(p) for name in state)), "")
    found = dict[str, torch.Tensor]()
    for name, value in state.items():
        short = name.removeprefix(prefix)
        if family.projection and short.startswith(f"{family.projection}."):
            found[f"head{short.removeprefix(family.projection)}"] = value
        elif name.startswith(prefix) and short.startswith(PARTS) and not short.endswith("position_ids"):
            # The oldest files of BERT have TensorFlow's names of a layer norm.
            found["net." + short.replace("LayerNorm.gamma", "LayerNorm.weight").replace(".beta", ".bias")] = value
    if not found:
        raise ValueError(
            f"{folder} has no weights of a {family.name} text encoder. Name another as student.text.init."
        )
    return found


def weight_files(folder: Path) -> Iterator[Path]:
    """The files of a folder's weights, one or several."""
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        names = sorted({str(name) for name in (read_json(index).get("weight_map") or {}).values()})
        yield from (folder / Path(name).name for name in names)
    else:
        yield folder / "model.safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is missing or damaged: {error}. Name a folder that transformers has saved."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it is no table. Name a folder that transformers has saved.")
    return found
