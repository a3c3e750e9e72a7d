"""Checkpoint files from elsewhere: read without running code from them, and loaded strictly into networks."""

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

# Keys under which training scripts save a state dict; those of averaged weights first.
STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "net", "teacher")
# Prefixes that data parallelism and torch.compile add to every key.
WRAPPERS = ("module.", "_orig_mod.")
# Tensors of a network whose shape depends on the size of patches or images; timm resamples them to another size.
SIZED = re.compile(r"patch_embed|pos_embed|patch_pos|rel_pos|relative_position_bias_table|attention_bias")
MAX_COMPUTED = 0.1  # share of a network's tensors that timm may compute from the file's, instead of copying them
PROBES = 16  # numbers of a tensor that are looked for in the file
MAX_KEYS = 3  # of each kind that an error names


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Load the ``state_dict`` in a file: safetensors, or a pickle of nothing but tensors and plain containers.

    Prefixes of data parallelism and compilation are removed, and missing counters of batch norms are added.

    Args:
        path: a ``.safetensors`` file, or any file that ``torch.save`` has written.

    Raises:
        ValueError: if the file is missing or damaged, holds code, or holds no weights.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Correct teacher.N.weights.")
    state = load_tensors(path)
    if not state:
        raise ValueError(f"{path} holds no weights. Name a file with a network's state_dict.")
    return add_counters(strip_wrappers(state))


def check_hash(path: Path, sha256: str) -> None:
    """Raise unless a file has the expected SHA-256.

    Args:
        path: the file; one that does not exist is not checked here.
        sha256: the expected hash, or its first digits; "" accepts any file.

    Raises:
        ValueError: if the file has another hash.
    """
    found = file_hash(path) if sha256 and path.is_file() else ""
    if found and not found.startswith(sha256.lower()):
        raise ValueError(
            f"{path} has the SHA-256 {found}, where {sha256} is expected: it is another file, or damaged. "
            "Fetch it again, or correct teacher.N.sha256."
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file by name, also where the state dict is nested under one of ``STATE_DICT_KEYS``.

    Raises:
        ValueError: if the file is damaged or holds code.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = load_pickle(path)
    except pickle.UnpicklingError as error:
        # torch raises this for pickles that would run code, and for some that are damaged.
        raise ValueError(
            f"{path} {refusal(path)}. Such files can run code when they are read, so it is refused. Get the "
            "weights as safetensors, or save the state_dict alone."
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {first_line(error)} Fetch it again.") from error
    while isinstance(loaded, Mapping) and (keys := [k for k in STATE_DICT_KEYS if has_entries(loaded.get(k))]):
        loaded = loaded[keys[0]]
    if not isinstance(loaded, Mapping):
        return {}
    return {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}


def refusal(path: Path) -> str:
    """Why torch refused a pickle, as part of a sentence: the names of the functions and classes that it refers to."""
    try:
        names = sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged pickle can raise anything, and torch's older format is not supported
        names = []
    if not names:
        return "is damaged, or holds more than tensors"
    return f"holds more than tensors: {', '.join(names[:MAX_KEYS])}{', …' if len(names) > MAX_KEYS else ''}"


def load_pickle(path: Path) -> Any:
    """Load what ``torch.save`` has written, with ``weights_only``.

    Raises:
        pickle.UnpicklingError: if the file refers to anything but tensors and plain containers, or is damaged.
        OSError: if it cannot be read.
        RuntimeError: if it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def has_entries(value: Any) -> bool:
    """Whether a value is a mapping that is not empty."""
    return isinstance(value, Mapping) and len(value) > 0


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters, as a sentence."""
    lines = str(error).strip().splitlines()
    return f"{(lines[0] if lines else type(error).__name__)[:200].rstrip('.')}."


def strip_wrappers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict without ``WRAPPERS`` that every one of its keys begins with, also where several are nested."""
    for prefix in WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            return strip_wrappers({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def add_counters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with ``num_batches_tracked`` of every batch norm, which files older than torch 0.4.1 lack.

    The value, 0, is not used when a network is evaluated.
    """
    means = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    counters = {f"{mean}num_batches_tracked": torch.tensor(0) for mean in means}
    return state | {key: zero for key, zero in counters.items() if key not in state}


def classifier_outputs(state: Mapping[str, torch.Tensor], classifier: str) -> int:
    """The number of classes of a checkpoint's classifier; 0 if it has none.

    Args:
        state: the checkpoint's state dict.
        classifier: the layer's name, as in timm's ``pretrained_cfg``.
    """
    weight = state.get(f"{classifier}.weight")
    return len(weight) if weight is not None and weight.dim() else 0


def find_foreign_tensor(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str:
    """A tensor of a network that has numbers which are not in the file it was loaded from, and why; "" if none has.

    While loading, timm resamples patch and position embeddings of another size, and for some architectures leaves
    tensors that the file lacks at their random initial values, both without an error. timm may also rename, reorder
    and regroup a file's tensors, so numbers are looked for, not names.

    Args:
        own: the network's state dict.
        state: the file's state dict, unchanged.

    Returns:
        A clause such as ``pos_embed is (1, 197, 192) instead of (1, 257, 192)``, or "".
    """
    sought = {
        name: probe(value)
        for name, value in own.items()
        if value.is_floating_point() and not same_numbers(value, state.get(name))
    }
    if not sought:
        return ""
    numbers = torch.cat([*sought.values(), torch.tensor([torch.inf])]).unique()
    found = torch.zeros(len(numbers), dtype=torch.bool)
    for value in state.values():
        in_file = value.flatten().float()
        nearest = torch.searchsorted(numbers, in_file).clamp(max=len(numbers) - 1)
        found[nearest[numbers[nearest] == in_file]] = True
    foreign = [name for name, some in sought.items() if not found[torch.searchsorted(numbers, some)].all()]
    # timm may compute a few tensors from several in the file, such as a bias from two, but none of those in SIZED.
    sized = [name for name in foreign if SIZED.search(name)]
    if not sized and len(foreign) <= MAX_COMPUTED * len(own):
        return ""
    name = (sized or foreign)[0]
    reason = f"{tuple(state[name].shape)} instead of {tuple(own[name].shape)}" if name in state else "not in the file"
    return f"{name} is {reason}"


def same_numbers(value: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether two tensors hold the same numbers in the same order, whatever their shapes."""
    return (
        other is not None
        and value.numel() == other.numel()
        and torch.equal(value.flatten(), other.flatten().to(value))
    )


def probe(value: torch.Tensor) -> torch.Tensor:
    """About ``PROBES`` evenly spaced numbers of a tensor, without 0 and 1, which are usual initial values."""
    some = value.flatten().float()[:: max(1, value.numel() // PROBES)]
    return some[(some != 0) & (some != 1)]


def load_strictly(net: nn.Module, state: Mapping[str, torch.Tensor], what: str, remedy: str) -> None:
    """Load a state dict into a network; keys and shapes must be exactly the network's.

    Args:
        net: the network, which is changed.
        state: the state dict.
        what: whose weights they are, for the error.
        remedy: what to do if they do not fit, for the error.

    Raises:
        ValueError: naming the first keys that are missing, unknown or of another shape.
    """
    own = net.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    wrong = [
        f"{len(keys)} {kind} ({', '.join(keys[:MAX_KEYS])}{', …' if len(keys) > MAX_KEYS else ''})"
        for kind, keys in (("missing", missing), ("not known", unexpected), ("of another shape", shapes))
        if keys
    ]
    if wrong:
        raise ValueError(f"The weights of {what} do not fit: of {len(own)} keys {'; '.join(wrong)}. {remedy}")
    net.load_state_dict(dict(state), strict=True)
