"""The rows of the global batch over which one process takes the mean, and the checks of a loss's inputs.

With R processes, process r computes ``L_r``, the mean over its own rows against *all* columns. The loss of
the run is the mean of the ``L_r``. Data-parallel training averages parameter gradients over processes, and
the backward of the gather sums the gradients of the embeddings ``e_r`` of process r over all processes, so that the
gradient of a parameter θ is

    (1/R) Σ_r Σ_s (∂L_s/∂e_r) (∂e_r/∂θ)  =  ∂/∂θ [(1/R) Σ_s L_s],

which equals that of one process with the whole batch. The gradient of a parameter of the loss itself (temperature,
bias) is averaged over processes likewise. No row is computed by two processes.
"""

from __future__ import annotations

import torch

ALL_ROWS = slice(None)


class NotFinite(ValueError):
    """An embedding, a scale or a bias is NaN, or an embedding infinite."""


def row_range(rows: slice, batch: int) -> slice:
    """The slice ``rows`` of a batch of the given size, with non-negative integers as its start and stop.

    Raises:
        ValueError: if the slice is empty or has a step other than 1.
    """
    start, stop, step = rows.indices(batch)
    if step != 1 or stop <= start:
        raise ValueError(f"rows must be a run of at least one of the {batch} rows; got {rows}.")
    return slice(start, stop)


def check_pair(a: torch.Tensor, b: torch.Tensor) -> None:
    """Raise ``ValueError`` unless ``a`` and ``b`` are both [N, D], N > 0, of equal shape and device, and finite."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"Both sides of a loss must be [N, D] and of equal shape; got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    check_rows(a, b)


def check_rows(*sides: torch.Tensor) -> None:
    """Raise ``ValueError`` unless all tensors are floating point, on one device, of equal length, and finite."""
    if len({len(side) for side in sides}) > 1 or not len(sides[0]):
        raise ValueError(f"A loss needs one row a sample on every side; got {', '.join(str(len(s)) for s in sides)}.")
    if len({side.device for side in sides}) > 1 or not all(side.is_floating_point() for side in sides):
        kinds = ", ".join(f"{side.dtype} on {side.device}" for side in sides)
        raise ValueError(f"The sides of a loss must be floating point on one device; got {kinds}.")
    # Stacked, so that the CPU waits for an accelerator once and not once a side.
    if not torch.stack([side.detach().isfinite().all() for side in sides]).all():
        bad = [k for k, side in enumerate(sides) if not side.isfinite().all()]
        raise NotFinite(f"Embeddings must be finite; side {bad[0] + 1} of the loss holds NaN or infinity.")


def check_number(name: str, value: torch.Tensor) -> None:
    """Raise ``ValueError`` unless ``value`` has shape [1] and is not NaN.

    Not [], because a 0-dim parameter crashes ``deepspeed.initialize``.
    """
    if not isinstance(value, torch.Tensor) or value.shape != (1,):
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{name} must have shape (1,); got {found}.")
    if value.isnan().any():
        raise NotFinite(f"{name} is NaN.")


def check_positive(name: str, value: float) -> None:
    """Raise ``ValueError`` unless a number is positive."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0; got {value}.")
