"""Text towers in checkpoints of open_clip: a file, or a folder of the kind that it reads as ``local-dir:FOLDER``."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HEAD_WIDTH = 64  # of every CLIP model; a file alone does not say how many heads there are
PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
# Keys of text_cfg by our options; "heads" and so on have the same names.
NAMES = {
    "context": "context_length",
    "width": "width",
    "heads": "heads",
    "layers": "layers",
    "mlp": "mlp_ratio",
    "pool": "pool_type",
}
# What else text_cfg may say: it changes nothing of what is computed here, or is read below.
READ = {"vocab_size", "no_causal_mask", "proj_bias", "pad_id", "eos_id", "output_tokens", *NAMES.values()}


def read_options(path: Path) -> dict[str, Any]:
    """The options of the text tower in a checkpoint: what its configuration says, or else its tensors' shapes.

    Raises:
        ValueError: if it is missing or damaged, or the tower is of another kind.
    """
    if not path.is_dir():
        return options_of_weights(read_state(path), path)
    config = read_table(path / CONFIG)
    model = config.get("model_cfg", config)
    text = model.get("text_cfg") if isinstance(model, dict) else None
    if not isinstance(text, dict):
        raise ValueError(f"{path / CONFIG} describes no text tower. Name another as student.text.init.")
    for key, value in text.items():
        if value and key not in READ and (key, value) != ("proj_type", "linear"):
            raise ValueError(
                f"{path / CONFIG} describes a text tower with {key} = {value!r}, which this one does not have. Name "
                "another as student.text.init."
            )
    defaults = {"context": 77, "width": 512, "heads": 8, "layers": 12, "mlp": 4.0, "pool": "argmax"}
    found = {option: text.get(key, defaults[option]) for option, key in NAMES.items()}
    return found | {
        "causal": not text.get("no_causal_mask", False),
        "quick_gelu": bool(model.get("quick_gelu", False)),
    }


def options_of_weights(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The options that the shapes of a text tower's tensors show; heads are taken to be 64 wide."""
    layers = [int(name.split(".")[2]) for name in state if name.startswith("transformer.resblocks.")]
    mlp = state.get("transformer.resblocks.0.mlp.c_fc.weight")
    if "positional_embedding" not in state or not layers or mlp is None:
        raise ValueError(f"{path} has no text tower of open_clip. Name another file as student.text.init.")
    context, width = state["positional_embedding"].shape
    return {
        "context": context,
        "width": width,
        "heads": max(1, width // HEAD_WIDTH),
        "layers": 1 + max(layers),
        "mlp": mlp.shape[0] / width,
        "pool": "argmax",
        "causal": True,
        "quick_gelu": False,
    }


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's text tower, in open_clip's names, with a projection as a linear layer.

    Raises:
        ValueError: if the file is missing or damaged, or holds code.
    """
    file = path
    if path.is_dir():
        found = [path / name for name in WEIGHTS if (path / name).is_file()]
        if not found:
            raise ValueError(f"{path} has no {' and no '.join(WEIGHTS)}. Name another as student.text.init.")
        file = found[0]
    state = {name.removeprefix("module."): value for name, value in load(file).items()}
    if any(name.startswith("text.") for name in state):  # a CustomTextCLIP
        state = {name.removeprefix("text."): value for name, value in state.items() if name.startswith("text.")}
    state = {name: value for name, value in state.items() if name.startswith(PARTS) and not name.endswith("attn_mask")}
    if not state:
        raise ValueError(f"{file} has no text tower of open_clip. Name another file as student.text.init.")
    if (projection := state.pop("text_projection", None)) is not None:
        # A matrix there; a linear layer without an effect of its bias here.
        state |= {"text_projection.weight": projection.T.contiguous()}
        state |= {"text_projection.bias": torch.zeros(projection.shape[1])}
    return state


def load(file: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file of safetensors or of torch, also those under "state_dict", as open_clip's trainer writes.

    Raises:
        ValueError: if it is missing or damaged, or holds code.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"{file} cannot be read: {first}. Name safetensors, or a file of tensors alone, as student.text.init."
        ) from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    return {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}


def read_table(path: Path) -> dict[str, Any]:
    """The table in a JSON file; raises ``ValueError`` if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}. Name a folder that open_clip reads.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it is no table. Name a folder that open_clip reads.")
    return found
