"""DeepSpeed's configuration."""

from __future__ import annotations

from typing import Any


def deepspeed_settings(
    *, batch_size: int, world: int, pieces: int, stage: int, precision: str, clip: float
) -> dict[str, Any]:
    """The ``config`` of ``deepspeed.initialize``.

    Args:
        batch_size: samples of a step over all processes, a multiple of ``world · pieces``.
        world: number of processes.
        pieces: gradient accumulation steps: the micro-batches of each process in a step.
        stage: ZeRO stage, 0 to 3.
        precision: "fp32", or "bf16": autocast with fp32 weights, so that temperature, norms and optimiser state keep
            fp32 precision at every stage.
        clip: largest global gradient norm; 0 switches clipping off.
    """
    settings: dict[str, Any] = {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": batch_size // (world * pieces),
        "gradient_accumulation_steps": pieces,
        "gradient_clipping": clip,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    if precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return settings
