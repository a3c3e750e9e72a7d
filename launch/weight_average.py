"""An exponential moving average of the weights, at every ZeRO stage.

From stage 1 on each process averages the part of the float32 weights that it updates, so the average is divided among
the processes as the optimiser's state is, and it is saved and loaded with that state.
"""

from __future__ import annotations

from typing import Any

import torch

from launch import zero

AVERAGE, STEPS = "weight_average", "weight_average_steps"  # keys beside the optimiser's state


def decay_at(steps: int, decay: float) -> float:
    """The decay of the next update: ``min(decay, (1 + t) / (10 + t))``, t = the number of updates so far.

    The warm-up lets the average forget the first weights soon. It is that of TensorFlow's
    ``tf.train.ExponentialMovingAverage`` (``num_updates``); timm's ``ModelEmaV3`` has a warm-up of another form.
    """
    return min(decay, (1 + steps) / (10 + steps))


def keep(engine: Any) -> None:
    """Begin an average: the weights as they are now. Loading the state of the optimiser replaces it by a saved one."""
    kept = zero.kept_beside(engine)
    for piece, _ in zero.pieces(engine):
        kept.setdefault(piece, {}).update({AVERAGE: piece.detach().clone(), STEPS: 0})


@torch.no_grad()
def update(engine: Any, decay: float) -> float:
    """Move the average towards the weights, after a step of the optimiser.

    Args:
        engine: DeepSpeed's, for which :func:`keep` was called.
        decay: the share of the average that stays, 0 to below 1, see :func:`decay_at`.

    Returns:
        The share of the weights that came in: 1 - the decay of this update.
    """
    kept = zero.kept_beside(engine)
    share = 1 - decay_at(next(iter(kept.values()))[STEPS], decay)
    torch._foreach_lerp_([values[AVERAGE] for values in kept.values()], [piece.detach() for piece in kept], share)
    for values in kept.values():
        values[STEPS] += 1
    return share


def averages(engine: Any) -> dict[str, torch.Tensor]:
    """The full averages on the CPU by the names of the parameters that are trained. Every process must call this.

    Empty if none is kept.
    """
    return averages_in(zero.optimizer_state(engine, (AVERAGE,))) if zero.kept_beside(engine) else {}


def averages_in(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The averages in the result of :func:`launch.zero.optimizer_state`."""
    end = f"/{AVERAGE}"
    return {name.removesuffix(end): value for name, value in state.items() if name.endswith(end)}
