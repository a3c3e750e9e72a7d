"""Time and memory of the tiled losses, compared with open_clip's on the same machine.

    python tests/bench_losses.py [--sizes 4096 8192 16384 32768] [--width 512] [--threads 2] [--repeats 3]

prints JSON. For each batch size N and each loss it reports:

- ``seconds``: one forward and backward in float32 with gradients for both sides, scale and bias; the best of a few
  repetitions, ours and open_clip's alternating;
- ``extra_mib``: how far the resident memory of a process rises above where it stood before one forward and backward,
  gradients included (2 N D numbers) and inputs not;
- ``growth``: ``extra_mib`` over that of the previous size;
- ``share_of_matmul_rate``: the rate of the four products of the tiled loss, 8 N² D operations, divided by the rate at
  which the same process multiplies two 2048 × 2048 float32 matrices; open_clip's losses need six or three products.

Every figure is measured in a separate process. In those that measure memory each large block is mapped from the system
and returned when freed (``MALLOC_MMAP_THRESHOLD_``), so that retained memory does not hide a peak; a tiny batch is
computed first, so that libraries and threads do not count. The peak is Linux's ``VmHWM``, reset beforehand. A loss of
open_clip that would not fit into memory, estimated from the previous size, is skipped, and the reason reported.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOSSES = {"contrastive": "ClipLoss", "sigmoid": "SigLipLoss"}
MATRICES = 6  # N × N matrices: the estimated need of a loss of open_clip before the first measurement
SPARE = 2 * 2**30  # bytes left to other processes


def once(name: str, whose: str, n: int, width: int) -> Callable[[], None]:
    """A function that computes one forward and backward of a loss, with inputs made in advance."""
    import torch
    import torch.nn.functional as F
    from open_clip import loss as open_clip

    import losses

    generator = torch.Generator().manual_seed(0)
    sides = [F.normalize(torch.randn(n, width, generator=generator), dim=1).requires_grad_() for _ in range(2)]
    numbers = [torch.tensor([x], requires_grad=True) for x in ((14.3,) if name == "contrastive" else (10.0, -10.0))]
    loss = getattr(open_clip, LOSSES[name])() if whose == "theirs" else getattr(losses, name)

    def step() -> None:
        for x in (*sides, *numbers):
            x.grad = None
        loss(*sides, *numbers).backward()

    return step


def matmul_rate(side: int = 2048) -> float:
    """Floating-point operations per second of a large float32 matrix product, the best of twelve."""
    import torch

    a, b = torch.randn(side, side), torch.randn(side, side)
    return 2 * side**3 / min(timed(lambda: a @ b) for _ in range(12))


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_time(name: str, whose: str, n: int, width: int, repeats: int) -> dict[str, float]:
    """The best of a few rounds; in each, ours, open_clip's and the matrix product alternate under the same load."""
    kinds = whose.split("+")
    steps = {kind: once(name, kind, n, width) for kind in kinds}
    for kind in kinds:
        once(name, kind, 64, width)()
    best, start = dict.fromkeys(kinds, math.inf), time.perf_counter()
    rate = matmul_rate()
    for _ in range(repeats):
        for kind, step in steps.items():
            best[kind] = min(best[kind], timed(step))
        rate = max(rate, matmul_rate())
        if time.perf_counter() - start > 240:
            break
    return best | {"rate": rate}


def measure_memory(name: str, whose: str, n: int, width: int, repeats: int) -> dict[str, float]:
    once(name, whose, 64, width)()
    step = once(name, whose, n, width)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    return {whose: (resident("VmHWM") - before) / 2**20}


def resident(field: str) -> int:
    """Bytes of resident memory: the current value (VmRSS) or the peak since the last reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


MEASURES = {"time": measure_time, "memory": measure_memory}


def measured(what: str, name: str, whose: str, n: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one measurement in a new process."""
    command = [sys.executable, __file__, "--one", what, name, whose, str(n)]
    command += ["--width", str(options.width), "--threads", str(options.threads), "--repeats", str(options.repeats)]
    threads = {key: str(options.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    mapped = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"} if what == "memory" else {}
    environment = os.environ | threads | mapped | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(result.stdout)
    return found


def compare(name: str, n: int, before: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The results for one loss at one size, ours and open_clip's; ``before`` are those at the previous size."""
    import psutil

    known = before.get("open_clip", {}).get("extra_mib")
    need = known * 2**20 * (n / before["n"]) ** 2 if known else MATRICES * 4 * n * n
    free = psutil.virtual_memory().available
    fits = need + SPARE < free
    memory = measured("memory", name, "ours", n, options)
    if fits:
        memory |= measured("memory", name, "theirs", n, options)
    seconds = measured("time", name, "ours+theirs" if fits else "ours", n, options)
    found: dict[str, Any] = {"loss": name, "n": n, "seconds": seconds["ours"], "extra_mib": memory["ours"]}
    found["matmul_gflops"] = seconds["rate"] / 1e9
    found["share_of_matmul_rate"] = 8 * n * n * options.width / seconds["ours"] / seconds["rate"]
    if before:
        found["growth"] = memory["ours"] / before["extra_mib"]
    if not fits:
        short = f"needs about {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        return found | {"open_clip": {"loss": LOSSES[name], "skipped": short}}
    return found | {
        "open_clip": {"loss": LOSSES[name], "seconds": seconds["theirs"], "extra_mib": memory["theirs"]},
        "time_ratio": seconds["ours"] / seconds["theirs"],
        "memory_ratio": memory["ours"] / memory["theirs"],
    }


def processor() -> str:
    """The model of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def rounded(x: Any) -> Any:
    """Every number to four digits."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    return float(f"{x:.4g}") if isinstance(x, float) else x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import torch

        torch.set_num_threads(options.threads)
        what, name, whose, n = options.one
        print(json.dumps(MEASURES[what](name, whose, int(n), options.width, options.repeats)))
        return
    from importlib.metadata import version

    results: list[dict[str, Any]] = []
    busy = os.getloadavg()[0]
    for name in LOSSES:
        before: dict[str, Any] = {}
        for n in options.sizes:
            before = compare(name, n, before, options)
            results.append(rounded(before))
            print(json.dumps(results[-1]), file=sys.stderr)
    report = {
        "date": datetime.date.today().isoformat(),
        "cpu": processor(),
        "threads": options.threads,
        "load_at_the_start": busy,
        "torch": version("torch"),
        "open_clip_torch": version("open_clip_torch"),
        "width": options.width,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
