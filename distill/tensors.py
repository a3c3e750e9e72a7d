"""A hash of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names, types, shapes and numbers of some tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def hash_tensors(tensors: Mapping[str, torch.Tensor], *parts: object) -> str:
    """SHA-256 of named tensors, on any device, and of the texts of further parts."""
    of_tensors = digest({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    return hashlib.sha256("\0".join([of_tensors, *map(str, parts)]).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """:func:`digest` of a safetensors file, which is mapped, not loaded."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
