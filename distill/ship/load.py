"""Load an export, or a run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill.errors import UserError, as_user_errors
from distill.ship import foreign, hashes
from distill.ship.build import build
from distill.ship.config_file import CONFIG, read_config
from distill.ship.contents import Shipped
from distill.ship.image_text import ImageText


def load(path: Path, device: str | None = None, alpha: float | None = None, best: bool = False) -> ImageText:
    """Load an export, or a run at its newest checkpoint.

    Args:
        path: the folder.
        device: a torch device; default a GPU if there is one.
        alpha: for a run without heads, the third tower's weight in image embeddings, 0 to 1; default the recipe's.
        best: a run at its best checkpoint, see [[evaluate]].

    Raises:
        UserError: if the folder is neither, a file in it is missing or damaged, or alpha is not possible.
    """
    foreign.check(path)
    if not (path / CONFIG).is_file():
        # Training modules are imported only if the folder may be a run.
        from distill.ship.load_run import is_run, load_run

        if is_run(path):
            return load_run(path, device, alpha, best)
    if alpha:
        raise UserError(
            f"{path} is an export and contains no teacher for --alpha.", "Name the run, or leave out --alpha."
        )
    if best:
        raise UserError(f"{path} is an export, which has no checkpoints.", "Name the run, or leave out --best.")
    return build(read_export(path), device)


def read_export(folder: Path) -> Shipped:
    """The content of an export in distill's own format.

    Raises:
        UserError: if the folder is not such an export, or a file in it is missing, damaged or changed.
    """
    foreign.check(folder)
    config = read_config(folder)
    hashes.check(config, folder)
    config = config.model_copy(update={"files": {}, "sha256": ""})  # they are of the files, not of the students
    modalities = ("image", "text") if config.text else ("image",)
    with as_user_errors():
        tensors = {f"{m}.{name}": value for m in modalities for name, value in read_tower(folder, m).items()}
        tokenizer = None
        if config.text is not None:
            kind = config.text.tower_class().Tokenizer
            tokenizer = kind.load(folder / kind.FILE, config.text.options().context)
    return Shipped(config, tensors, tokenizer)


def read_tower(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Load the tensors of one tower.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        return load_file(folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / name}.safetensors cannot be read: {error}. Export the run again.") from error
