"""How fast a network computes on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

BATCH = 32  # inputs a forward
REPEATS = 5  # measurements, of which the median counts
SECONDS = 0.8  # after so many no further measurement begins


def images_per_second(images: Callable[[torch.Tensor], object], side: int, device: torch.device) -> float:
    """How many images a second are embedded in batches, without decoding them.

    Args:
        images: embeds [n, 3, side, side] uint8 on ``device``.
        side: in pixels.
        device: of the network.
    """
    pixels = torch.zeros(BATCH, 3, side, side, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        return BATCH / median_seconds(lambda: images(pixels), device)


@torch.inference_mode()
def measured(forward: Callable[[int], object], device: torch.device) -> tuple[float, float]:
    """(inputs per second in batches, milliseconds for a single input) of a forward pass of n inputs."""
    return BATCH / median_seconds(lambda: forward(BATCH), device), 1000 * median_seconds(lambda: forward(1), device)


def median_seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median duration of a call, after a first one that does not count."""
    times, started = list[float](), time.perf_counter()
    for number in range(REPEATS + 1):
        before = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number or time.perf_counter() - started > SECONDS:
            times.append(time.perf_counter() - before)
        if times and time.perf_counter() - started > SECONDS:
            break
    return statistics.median(times)
