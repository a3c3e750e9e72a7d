"""The weights that a student starts from, where they are those of an export or a run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill.tables import TowerTable
from distill.text_sources import own_table, place
from distill.training import checkpoint
from distill.training.run import is_run
from students import Tower


def read_tower(table: TowerTable, modality: str, kind: type[Tower] = Tower) -> dict[str, torch.Tensor]:
    """Load the state dict of one tower from what ``table.init`` names.

    Args:
        table: of the tower.
        modality: "image" or "text".
        kind: the class of the tower, which may read what other tools have saved.

    Returns:
        That of an export, of a run as of its newest checkpoint, or what ``kind`` reads.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    folder = place(table.init) if modality == "text" else Path(table.init)
    if own_table(folder) is None and kind.reads(folder):
        return kind.read(folder)
    newest = checkpoint.newest(folder) if is_run(folder) else None
    path = newest / checkpoint.STUDENTS if newest else folder / f"{modality}.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Set student.{modality}.init to a folder that 'distill export' or "
            "'distill train' wrote."
        ) from error
    if newest is None:
        return tensors
    # In a checkpoint timm's names follow "image.net.", in an export there is nothing before them.
    prefix = "image.net." if modality == "image" else "text."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
