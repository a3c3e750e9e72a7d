"""Open an export, or a run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill.errors import UserError, as_user_errors
from distill.ship.build import build
from distill.ship.config_file import CONFIG, read_config
from distill.ship.image_text import ImageText
from distill.ship.shipped import Shipped


def load(path: Path, device: str | None = None, alpha: float | None = None) -> ImageText:
    """Open an export, or a run at its newest checkpoint.

    Args:
        path: the folder.
        device: default a GPU where there is one.
        alpha: of a run without heads, the third tower's share in image embeddings; default the recipe's.

    Raises:
        UserError: if the folder is neither, or a file of it is missing or damaged, or alpha makes no sense.
    """
    if not (path / CONFIG).is_file():
        # A run: only then is anything of training imported.
        from distill.ship.load_run import is_run, load_run

        if is_run(path):
            return load_run(path, device, alpha)
    if alpha:
        raise UserError(
            f"{path} is an export, and holds no teacher to combine.", "Name the run, or leave out --alpha."
        )
    return build(read_export(path), device)


def read_export(folder: Path) -> Shipped:
    """What an export of distill's own format holds.

    Raises:
        UserError: if the folder is none, or a file of it is missing or damaged.
    """
    config = read_config(folder)
    modalities = ("image", "text") if config.text else ("image",)
    with as_user_errors():
        tensors = {f"{m}.{name}": value for m in modalities for name, value in read_tower(folder, m).items()}
        tokenizer = None
        if config.text is not None:
            kind = config.text.tower_class().Tokenizer
            tokenizer = kind.load(folder / kind.FILE, config.text.options().context)
    return Shipped(config, tensors, tokenizer)


def read_tower(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of one tower's file.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        return load_file(folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / name}.safetensors cannot be read: {error}. Export the run again.") from error
