"""An export format: all weights in one file of NumPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill.ship.contents import Shipped


def write(shipped: Shipped, folder: Path, name: str) -> None:
    np.savez(folder / "weights.npz", **{key: value.numpy() for key, value in shipped.tensors.items()})
