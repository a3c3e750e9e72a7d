"""The share of a global batch that one process answers for.

With R processes, process r computes ``L_r``, the mean over its own rows against *all* columns. The loss of
the run is the mean of the ``L_r``. Data-parallel training averages parameter gradients over processes, and
the gather's backward sums embedding gradients over processes, so what reaches the parameters is

    (1/R) Σ_r Σ_s (∂L_s/∂e_r) (∂e_r/∂θ)  =  ∂/∂θ [(1/R) Σ_s L_s],

the gradient of one process that holds the whole batch. A parameter of the loss itself (the temperature) is
averaged the same way. No process ever computes another one's rows.
"""

from __future__ import annotations

import torch

WHOLE = slice(None)


def check_pair(a: torch.Tensor, b: torch.Tensor) -> None:
    """Raise ``ValueError`` unless ``a`` and ``b`` are both [N, D] with the same N and D."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"Both sides of a loss must be [N, D] and of equal shape; got {tuple(a.shape)} and {tuple(b.shape)}."
        )


def check_scale(scale: torch.Tensor) -> None:
    """Raise ``ValueError`` unless ``scale`` is [1] (a 0-dim parameter would crash ``deepspeed.initialize``)."""
    if scale.shape != (1,):
        raise ValueError(f"scale must have shape (1,); got {tuple(scale.shape)}.")
