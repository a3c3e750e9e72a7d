"""Checkpoint files of others: read without running anything in them, and fitted to timm's networks."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

# Where training scripts keep the weights in what they save, the averaged ones first.
INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "net", "teacher")
# What data parallelism and compilation put before every name.
WRAPPERS = ("module.", "_orig_mod.")
# Of a network's tensors those that depend on the size of patches or images.
SIZED = re.compile(r"patch_embed|pos_embed|patch_pos|rel_pos|relative_position_bias_table|attention_bias")
COMPUTED = 0.1  # of a network's tensors that timm may compute from the file's
PROBES = 16  # numbers of a tensor that are looked for
SHOWN = 3  # keys an error names of each kind


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The ``state_dict`` in a file: safetensors, or a pickle of nothing but tensors and plain containers.

    Args:
        path: ``.safetensors``, or anything ``torch.save`` has written.

    Raises:
        ValueError: if it is missing, damaged, holds code or no weights.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Correct teacher.N.weights.")
    state = tensors_of(path)
    if not state:
        raise ValueError(f"{path} holds no weights. Name a file with a network's state_dict.")
    return with_counters(without_wrappers(state))


def check_hash(path: Path, sha256: str) -> None:
    """Find out whether a file is the one meant.

    Args:
        sha256: its hash or the first digits of it; "" accepts any.

    Raises:
        ValueError: if it is another one.
    """
    found = file_hash(path) if sha256 and path.is_file() else ""
    if found and not found.startswith(sha256.lower()):
        raise ValueError(
            f"{path} has the SHA-256 {found}, where {sha256} is expected: it is another file, or damaged. "
            "Fetch it again, or correct teacher.N.sha256."
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors in a file, wherever in it they are.

    Raises:
        ValueError: if it is damaged or holds code.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = load_pickle(path)
    except pickle.UnpicklingError as error:
        # torch says this of pickles that would run code, and of some that are damaged.
        raise ValueError(
            f"{path} {beyond_tensors(path)}. Such files can run code when they are read, so it is refused. Get the "
            "weights as safetensors, or save the state_dict alone."
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {first_line(error)} Fetch it again.") from error
    while isinstance(found, Mapping) and (inside := [found[key] for key in INSIDE if is_table(found.get(key))]):
        found = inside[0]
    if not isinstance(found, Mapping):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}


def beyond_tensors(path: Path) -> str:
    """What a pickle that was refused asks for, in words."""
    try:
        names = sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged pickle can fail in any way, and only new ones can be looked into
        names = []
    if not names:
        return "is damaged, or holds more than tensors"
    return f"holds more than tensors: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"


def load_pickle(path: Path) -> Any:
    """What ``torch.save`` has written, if it is nothing but data; damage is a RuntimeError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def is_table(value: Any) -> bool:
    """Whether something is a table, and not an empty one."""
    return isinstance(value, Mapping) and len(value) > 0


def first_line(error: Exception) -> str:
    """The start of an error's message, as a sentence."""
    lines = str(error).strip().splitlines()
    return f"{(lines[0] if lines else type(error).__name__)[:200].rstrip('.')}."


def without_wrappers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same without what stands before every single key, however often it was wrapped."""
    for prefix in WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            return without_wrappers({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def with_counters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with the batch norms' counters, which files older than torch 0.4.1 lack; nothing depends on them."""
    means = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    counters = {f"{mean}num_batches_tracked": torch.tensor(0) for mean in means}
    return state | {key: zero for key, zero in counters.items() if key not in state}


def classes_of(state: Mapping[str, torch.Tensor], classifier: str) -> int:
    """The outputs of a checkpoint's classifier; 0 if it has none.

    Args:
        classifier: the layer's name, as timm's ``pretrained_cfg`` has it.
    """
    weight = state.get(f"{classifier}.weight")
    return len(weight) if weight is not None and weight.dim() else 0


def not_in_file(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str:
    """Which of a network's tensors has numbers that the file it was loaded from has not, in words; "" if none has.

    On the way timm resamples patches and positions of another size, and leaves what some architectures' files lack as
    it was drawn; both without a word. Names, order and grouping may change; numbers may not.

    Args:
        own: the network's state dict.
        state: the file's, as it is.
    """
    left = {
        name: probes(value)
        for name, value in own.items()
        if value.is_floating_point() and not same(value, state.get(name))
    }
    if not left:
        return ""
    sought = torch.cat([*left.values(), torch.tensor([torch.inf])]).unique()
    found = torch.zeros(len(sought), dtype=torch.bool)
    for value in state.values():
        numbers = value.flatten().float()
        places = torch.searchsorted(sought, numbers).clamp(max=len(sought) - 1)
        found[places[sought[places] == numbers]] = True
    strange = [name for name, some in left.items() if not found[torch.searchsorted(sought, some)].all()]
    # A filter may compute a tensor or two, such as a bias of two; of sizes it computes none.
    sized = [name for name in strange if SIZED.search(name)]
    if not sized and len(strange) <= COMPUTED * len(own):
        return ""
    name = (sized or strange)[0]
    other = f"{tuple(state[name].shape)} instead of {tuple(own[name].shape)}" if name in state else "not in the file"
    return f"{name} is {other}"


def same(value: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether two tensors hold the same numbers in the same order."""
    return (
        other is not None
        and value.numel() == other.numel()
        and torch.equal(value.flatten(), other.flatten().to(value))
    )


def probes(value: torch.Tensor) -> torch.Tensor:
    """Some of a tensor's numbers, evenly spaced; without 0 and 1, which anything can start as."""
    some = value.flatten().float()[:: max(1, value.numel() // PROBES)]
    return some[(some != 0) & (some != 1)]


def fit(net: nn.Module, state: Mapping[str, torch.Tensor], what: str, remedy: str) -> None:
    """Load a state dict, every key of it.

    Args:
        what, remedy: whose weights they are, and what to do if they do not fit, for the error.

    Raises:
        ValueError: naming the first keys that are missing, too many, or of another shape.
    """
    own = net.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    wrong = [
        f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{', …' if len(keys) > SHOWN else ''})"
        for kind, keys in (("missing", missing), ("not known", unexpected), ("of another shape", shapes))
        if keys
    ]
    if wrong:
        raise ValueError(f"The weights of {what} do not fit: of {len(own)} keys {'; '.join(wrong)}. {remedy}")
    net.load_state_dict(dict(state), strict=True)
