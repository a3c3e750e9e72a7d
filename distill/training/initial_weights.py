"""The weights that a student starts from, where they are not random."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import teachers
from distill.initial import Source
from distill.tables import TowerTable
from distill.text_sources import own_table, place
from distill.training import checkpoint
from distill.training.run import is_run
from students import TextTower


def read_image(source: Source, names: Collection[str], part: bool) -> dict[str, torch.Tensor]:
    """Load the state dict of the image network that initial weights come from; a file's with its classifier.

    Args:
        source: where they come from.
        names: of the tensors of the student's network.
        part: whether they may be those of a larger network.

    Raises:
        ImportError, ConnectionError, ValueError: if they cannot be loaded; the message says what to do.
    """
    if source.card is None:
        assert source.folder is not None
        return read_own(source.folder, "image")
    if not source.file:
        return dict(teachers.load(source.card).net.state_dict())
    assert source.card.file is not None
    state = teachers.read_weights(source.card.file())
    if part or len(state.keys() & names) > len(names) / 2:
        return state
    # With other names than timm's: those of the architecture's original code, which timm may know.
    return dict(teachers.network(source.card, source.card.image_size).state_dict())


def read_text(table: TowerTable, kind: type[TextTower]) -> dict[str, torch.Tensor]:
    """Load the state dict of a text tower from what ``table.init`` names.

    Args:
        table: of the tower.
        kind: the class of the tower, which may read what other tools have saved.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    folder = place(table.init)
    return kind.read(folder) if own_table(folder) is None and kind.TAKEN else read_own(folder, "text")


def read_own(folder: Path, modality: str) -> dict[str, torch.Tensor]:
    """Load the state dict of one tower of an export, or of a run at its newest checkpoint.

    Raises:
        ValueError: if the file is missing or damaged.
    """
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
