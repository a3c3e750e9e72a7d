"""Whether the disk has room for the checkpoints of a run, before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from distill.errors import UserError
from distill.files import nearest_folder
from distill.wording import in_bytes

MOMENTS = 2  # tensors that an optimiser keeps for each trained one, at most


def check_space(run: Path, model: nn.Module, keep: int, average: bool = False) -> None:
    """Raise ``UserError`` if there is too little space for the checkpoints a run keeps, and the one being written.

    Args:
        run: the folder of the run, which need not exist.
        model: the whole model.
        keep: the number of checkpoints that are kept.
        average: whether a moving average of the weights is kept.
    """
    size = checkpoint_size(model, average)
    needed = size * max(1, keep + 1 - len(list((run / "checkpoints").glob("step-*"))))
    folder = nearest_folder(run)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The checkpoints of this run take {in_bytes(size)} each; checkpoint.keep = {keep} of them and the one "
            f"being written need {in_bytes(needed)}, and on the disk of {folder} there are {in_bytes(free)} free.",
            "Make room, lower checkpoint.keep, or choose another --out.",
        )


def checkpoint_size(model: nn.Module, average: bool = False) -> int:
    """The size of a checkpoint in bytes, at most: weights, the state of the optimiser, and the students once more.

    Args:
        model: the whole model.
        average: whether a moving average of the weights is kept.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return 2 * weights + (MOMENTS + average) * trained
