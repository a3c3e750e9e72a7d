"""An export format: all weights in one file of NumPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill.ship.contents import Shipped
from distill.ship.export_format import ExportFormat, Numbers


class Npz(ExportFormat):
    """All weights in one file of NumPy's."""

    opens, dtypes = "NumPy", ("fp32",)

    def write(self, shipped: Shipped, folder: Path, numbers: Numbers) -> None:
        np.savez(folder / "weights.npz", **{key: value.float().numpy() for key, value in shipped.tensors.items()})


FORMAT = Npz()
