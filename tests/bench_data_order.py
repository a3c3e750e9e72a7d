"""The cost of reading samples in the order of training, compared with reading them one after another.

    python tests/bench_data_order.py [--samples 32768] [--kilobytes 50] [--rounds 5] [--folder /tmp]

writes the same number of samples as shards of 20, 100, 1,000 and 10,000 each, and prints a line for each kind, in
microseconds per sample of one process that reads whole epochs. Three ways alternate:

- ``sequential``: the samples one after another, as they are in the shards.
- ``order``: in the order of training, with reading ahead, as a loader process does with batches of 512.
- ``alone``: in the order of training without reading ahead.

``cold`` is after the operating system has been asked to drop the files from its cache (a virtual disk may have another
one), the median of the rounds; ``warm`` with all of them in it, of every batch the fastest of the rounds. The stripes
are shorter than in training, so that runs are as long as in a large data set.
``rows`` are the teacher's rows of the same samples in a warm cache, in the order of training. The last lines compare
the other shards with those of 1,000.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from distill.data.cache import Cache  # noqa: E402
from distill.data.order import Order  # noqa: E402
from distill.data.shards import Shards  # noqa: E402

PER_SHARD = (20, 100, 1000, 10_000)
BATCH = 512
STRIPES = 24  # in an epoch; with fewer, many runs are divided by its end


def write(folder: Path, samples: int, per_shard: int, size: int) -> None:
    """Shards whose images are random bytes, of half to one and a half times ``size``."""
    folder.mkdir()
    rng, noise = np.random.default_rng(0), os.urandom(2 * size + (1 << 20))
    for first in range(0, samples, per_shard):
        with tarfile.open(folder / f"train-{first // per_shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for n in range(first, min(samples, first + per_shard)):
                start, length = int(rng.integers(1 << 20)), int(rng.integers(size // 2, size * 3 // 2))
                members = {"jpg": noise[start : start + length], "txt": f"a picture, number {n}".encode()}
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{n:09d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def drop(folder: Path) -> None:
    """Ask the operating system to drop all files of a folder from its cache."""
    for path in folder.rglob("*.tar"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def sequential(shards: Shards, order: Order, start: int) -> None:
    for i in range(start, start + BATCH):
        shards.read(i)


def in_order(shards: Shards, order: Order, start: int) -> None:
    if start == 0:
        shards.read_ahead(order.ahead(0, BATCH))
    shards.read_ahead(order.ahead(start + BATCH, start + 2 * BATCH))
    alone(shards, order, start)


def alone(shards: Shards, order: Order, start: int) -> None:
    for _, i in order.between(start, start + BATCH):
        shards.read(i)


WAYS = {"sequential": sequential, "order": in_order, "alone": alone}


def cache_of(shards: Shards, folder: Path) -> Cache:
    """A complete cache of random rows."""
    import teachers
    from distill.config import TeacherTable
    from distill.data.views import Views

    table = TeacherTable(name="packaged/efficientnet_lite0", cache=str(folder))
    cache = Cache(table, teachers.card(table.name), Views("center", False))
    for index in shards.indexes:
        cache.claim(index, "weights")
        rows = torch.randn(table.views, len(index), *cache.shapes["embedding"]).to(cache.dtype)
        cache.write(index, {"embedding": rows}, "weights")
    return cache


def timed(work: Callable[[int], object], starts: range) -> list[float]:
    """Seconds for each batch."""
    times = []
    for start in starts:
        begun = time.perf_counter()
        work(start)
        times.append(time.perf_counter() - begun)
    return times


def measure(folder: Path, samples: int, per_shard: int, size: int, rounds: int) -> dict[str, float]:
    """The times of one kind of shards."""
    write(folder, samples, per_shard, size)
    opened = Shards.open([str(folder)])
    opened.save(folder / "shards.safetensors")
    opened.save_samples(folder)
    shards = Shards.load(folder / "shards.safetensors")  # as the processes of a run
    order, starts = Order(shards.counts, 0, stripe=samples // STRIPES), range(0, samples, BATCH)
    works: dict[str, Callable[[int], object]] = {name: partial(way, shards, order) for name, way in WAYS.items()}
    cold: dict[str, list[float]] = {}
    for k in range(rounds):
        names = list(works)
        for name in names[k % len(names) :] + names[: k % len(names)]:  # none is always the first
            work = works[name]
            drop(folder)
            cold.setdefault(f"{name} cold", []).append(sum(timed(work, starts)))
    cache = cache_of(opened, folder / "cache")

    def rows(start: int) -> None:
        for _, i in order.between(start, start + BATCH):
            cache.row(shards, i, 0)

    warm: dict[str, list[list[float]]] = {}
    for _ in range(1 + rounds):
        for start in starts:
            for name, work in (works | {"rows": rows}).items():
                warm.setdefault(f"{name} warm {start}", []).append(timed(work, range(start, start + 1)))
    shards.close()
    found = {name: statistics.median(seconds) for name, seconds in cold.items()}
    for name in (*works, "rows"):
        found[f"{name} warm"] = sum(min(warm[f"{name} warm {start}"])[0] for start in starts)
    return {name: seconds / samples * 1e6 for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32_768, help=f"a multiple of {BATCH}")
    parser.add_argument("--kilobytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="on the disk to be measured")
    arguments = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    heads = [f"{name} {state}" for state in ("cold", "warm") for name in WAYS]
    print(f"{'shards of':>10}" + "".join(f"{head:>17}" for head in [*heads, "rows warm"]) + "   order/sequential")
    home = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        for per_shard in PER_SHARD:
            folder = home / str(per_shard)
            times = measure(folder, arguments.samples, per_shard, 1000 * arguments.kilobytes, arguments.rounds)
            shutil.rmtree(folder)
            ratios = [times[f"order {state}"] / times[f"sequential {state}"] for state in ("cold", "warm")]
            line = "".join(f"{times[head]:17.1f}" for head in [*heads, "rows warm"])
            print(f"{per_shard:>10,}{line}   cold {ratios[0]:.2f} warm {ratios[1]:.2f}", flush=True)
            found[per_shard] = times
    finally:
        shutil.rmtree(home)
    for name in ("order cold", "order warm", "rows warm"):
        small = [f"{k:,}: {found[k][name] / found[1000][name]:.2f}" for k in PER_SHARD if k != 1000]
        print(f"{name}, compared with shards of 1,000: shards of {', '.join(small)}")


if __name__ == "__main__":
    main()
