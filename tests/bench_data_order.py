"""The cost of reading samples in the order of training, compared with reading them one after another.

    python tests/bench_data_order.py [--samples 32768] [--kilobytes 50] [--rounds 5] [--folder /tmp]

writes the same number of samples as shards of 20, 100, 1,000 and 10,000 each, and prints a line for each kind, in
microseconds per sample of one process that reads whole epochs. It takes four times the room on the disk, and in memory
for the file cache. The kinds alternate, and three ways of reading:

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

from distill.data.order import Order  # noqa: E402
from distill.data.shards import Shards  # noqa: E402
from distill.data.view_cache import ViewCache  # noqa: E402

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


def cache_of(shards: Shards, folder: Path) -> ViewCache:
    """A complete cache of random rows."""
    import teachers
    from distill.config import TeacherTable
    from distill.data.views import Views

    table = TeacherTable(name="packaged/efficientnet_lite0", cache=str(folder))
    cache = ViewCache(table, teachers.card(table.name), Views("center", False))
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


class Kind:
    """Shards of one size, and the ways of reading them."""

    def __init__(self, folder: Path, samples: int, per_shard: int, size: int) -> None:
        self.folder = folder
        write(folder, samples, per_shard, size)
        opened = Shards.open([str(folder)])
        opened.save(folder / "shards.safetensors")
        opened.save_samples(folder)
        self.shards = Shards.load(folder / "shards.safetensors")  # as the processes of a run
        self.order = Order(self.shards.counts, 0, stripe=samples // STRIPES)
        self.cache = cache_of(opened, folder / "cache")
        ways = {name: partial(way, self.shards, self.order) for name, way in WAYS.items()}
        self.works: dict[str, Callable[[int], object]] = {**ways, "rows": self.rows}

    def rows(self, start: int) -> None:
        for _, i in self.order.between(start, start + BATCH):
            self.cache.row(self.shards, i, 0)


def measure(kinds: dict[int, Kind], samples: int, rounds: int) -> dict[tuple[int, str], float]:
    """Microseconds per sample of every kind of shards and way of reading; all of them take turns."""
    starts, found = range(0, samples, BATCH), dict[tuple[int, str], float]()
    cold: dict[tuple[int, str], list[float]] = {}
    for k in range(rounds):
        names = list(WAYS)
        for name in names[k % len(names) :] + names[: k % len(names)]:  # none is always the first
            for per_shard, kind in kinds.items():
                drop(kind.folder)
                cold.setdefault((per_shard, name), []).append(sum(timed(kind.works[name], starts)))
    for (per_shard, name), seconds in cold.items():
        found[per_shard, f"{name} cold"] = statistics.median(seconds)
    for start in starts:
        best: dict[tuple[int, str], float] = {}
        for _ in range(1 + rounds):
            for per_shard, kind in kinds.items():
                for name, work in kind.works.items():
                    (seconds,) = timed(work, range(start, start + 1))
                    best[per_shard, name] = min(seconds, best.get((per_shard, name), seconds))
        for (per_shard, name), seconds in best.items():
            found[per_shard, f"{name} warm"] = found.get((per_shard, f"{name} warm"), 0.0) + seconds
    return {key: seconds / samples * 1e6 for key, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32_768, help=f"a multiple of {BATCH}")
    parser.add_argument("--kilobytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="on the disk to be measured")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        size = 1000 * arguments.kilobytes
        kinds = {number: Kind(home / str(number), arguments.samples, number, size) for number in PER_SHARD}
        found = measure(kinds, arguments.samples, arguments.rounds)
    finally:
        shutil.rmtree(home)
    heads = [*(f"{name} {state}" for state in ("cold", "warm") for name in WAYS), "rows warm"]
    print(f"{'shards of':>10}" + "".join(f"{head:>17}" for head in heads) + "   order/sequential")
    for number in PER_SHARD:
        ratios = [found[number, f"order {state}"] / found[number, f"sequential {state}"] for state in ("cold", "warm")]
        line = "".join(f"{found[number, head]:17.1f}" for head in heads)
        print(f"{number:>10,}{line}   cold {ratios[0]:.2f} warm {ratios[1]:.2f}")
    for name in ("order cold", "order warm", "rows warm"):
        small = [f"{k:,}: {found[k, name] / found[1000, name]:.2f}" for k in PER_SHARD if k != 1000]
        print(f"{name}, compared with shards of 1,000: shards of {', '.join(small)}")


if __name__ == "__main__":
    main()
