"""The share of a global batch that one process answers for, and what every loss asks of its inputs.

With R processes, process r computes ``L_r``, the mean over its own rows against *all* columns. The loss of
the run is the mean of the ``L_r``. Data-parallel training averages parameter gradients over processes, and
the gather's backward sums embedding gradients over processes, so what reaches the parameters is

    (1/R) Σ_r Σ_s (∂L_s/∂e_r) (∂e_r/∂θ)  =  ∂/∂θ [(1/R) Σ_s L_s],

the gradient of one process that holds the whole batch. A parameter of the loss itself (temperature, bias) is
averaged the same way. No process ever computes another one's rows.
"""

from __future__ import annotations

import torch

WHOLE = slice(None)


class NotFinite(ValueError):
    """An embedding, a scale or a bias is NaN, or an embedding infinite."""


def share(rows: slice, batch: int) -> slice:
    """``rows`` of a batch of a given size, with its start and stop as numbers.

    Raises:
        ValueError: if no row is left, or the slice has a step.
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
    """Raise ``ValueError`` unless all tensors are floating point, on one device, with as many rows, and finite."""
    if len({len(side) for side in sides}) > 1 or not len(sides[0]):
        raise ValueError(f"A loss needs one row a sample on every side; got {', '.join(str(len(s)) for s in sides)}.")
    if len({side.device for side in sides}) > 1 or not all(side.is_floating_point() for side in sides):
        kinds = ", ".join(f"{side.dtype} on {side.device}" for side in sides)
        raise ValueError(f"The sides of a loss must be floating point on one device; got {kinds}.")
    # One wait for the device, however many sides there are.
    if not torch.stack([side.detach().isfinite().all() for side in sides]).all():
        bad = [k for k, side in enumerate(sides) if not side.isfinite().all()]
        raise NotFinite(f"Embeddings must be finite; side {bad[0] + 1} of the loss holds NaN or infinity.")


def check_number(name: str, value: torch.Tensor) -> None:
    """Raise ``ValueError`` unless ``value`` is [1], for a 0-dim parameter would crash ``deepspeed``, and no NaN."""
    if not isinstance(value, torch.Tensor) or value.shape != (1,):
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{name} must have shape (1,); got {found}.")
    if value.isnan().any():
        raise NotFinite(f"{name} is NaN.")


def check_positive(name: str, value: float) -> None:
    """Raise ``ValueError`` unless a number is positive."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0; got {value}.")
