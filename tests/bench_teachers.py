"""The cost of a teacher: embedding in advance compared with its forward alone, and training with and without it.

    python tests/bench_teachers.py [--images 512] [--steps 12] [--rounds 5] [--threads 2]

prints JSON, measured on generated images:

- ``embedding``: for each teacher, images per second of the loop of ``distill teachers embed`` (decoding, views,
  forward, checksums, files) and of its forward alone on the same pixels, alternating in one process; every round is
  timed from its first batch, when the loaders run, to its end. Reported are the medians of the rounds, and the median,
  minimum and maximum of the rounds' ratios.
- ``step``, unless ``--steps 0``: seconds per training step from scratch, of Three Towers and of LiT with the teacher
  cached and online, with the towers of the packaged recipes; medians of steps that alternate in one process.
  ``three_towers_over_scratch`` is the relative cost of the third tower if cached; in the paper, trainings took 63 and
  54 hours, a ratio of 1.17.
- ``break_even_epochs``: after how many epochs embedding in advance has saved its own cost (LiT, arXiv 2111.07991,
  Figure 10), with one view per image and with the recipes' four.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

TEACHER = "packaged/efficientnet_lite0"
VIT = "in21k/vit_small_patch16_224"  # with random weights: the time does not depend on them
RUNS = {
    "scratch": ("scratch", []),
    "three_towers_cached": ("three_towers", []),
    "three_towers_online": ("three_towers", ["teacher.0.cache=none"]),
    "lit_cached": ("lit", []),
    "lit_online": ("lit", ["teacher.0.cache=none"]),
}
WARM_UP = 3  # steps that are not timed


def draw(folder: Path, count: int, side: int = 256) -> Path:
    """Write shards of JPEG drawings with captions."""
    from conftest import COLOURS, SHAPES, encoded, picture, write_tar

    folder.mkdir()
    for shard in range(4):
        members = []
        for n in range(shard, count, 4):
            shape, colour = SHAPES[n % 4], COLOURS[n // 4 % 8]
            members.append((f"{n:06d}.jpg", encoded(picture(shape, colour, n).resize((side, side)), "JPEG")))
            members.append((f"{n:06d}.txt", f"a {colour} {shape}, number {n}".encode()))
        write_tar(folder / f"train-{shard:06d}.tar", members)
    return folder


def with_random_weights(name: str, folder: Path) -> Any:
    """A card whose weights are in a new file with random weights."""
    import timm
    from safetensors.torch import save_file

    import teachers

    card, path = teachers.card(name), folder / "weights.safetensors"
    save_file(timm.create_model(card.arch).state_dict(), path)
    return replace(card, file=partial(Path, path))


CountImages = Callable[[int], None]


def pace(work: Callable[[CountImages], object]) -> float:
    """Images per second from the first batch to the end, including the writing of files.

    The start is excluded: after the first round, forking loaders from a process with much memory takes longer.
    """
    ticks: list[tuple[float, int]] = []
    work(lambda count: ticks.append((time.perf_counter(), count)))
    return sum(count for _, count in ticks[1:]) / (time.perf_counter() - ticks[0][0])


def embedding(card: Any, shards: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Images per second of the complete embedding and of the forward alone, and their ratio."""
    import teachers
    from distill.config import TeacherTable
    from distill.data.cache_fill import MissingShards, embed
    from distill.data.shards import Shards
    from distill.data.view_cache import ViewCache
    from distill.data.view_fill import BATCH, PixelFormat, ViewPixels
    from distill.data.views import PLAIN_VIEWS
    from launch.group import default_device

    teacher, data = teachers.load(card).to(default_device()), Shards.open([str(shards)])
    samples = [range(i, min(i + BATCH, len(data))) for i in range(0, len(data), BATCH)]
    formats = [PixelFormat(1, card.image_size, card.interpolation)]
    pixels = [batch[:, 0] for (batch,), _ in ViewPixels(data, PLAIN_VIEWS, formats).batches(samples, 0)]

    def bare(count_images: CountImages) -> None:
        for batch in pixels:
            teacher(batch.to(teacher.mean.device))["embedding"].cpu()
            count_images(len(batch))

    def whole(count_images: CountImages, number: int) -> None:
        table = TeacherTable(name=card.name, cache=str(folder / f"{card.name.replace('/', '-')}-{number}"))
        cache = ViewCache(table, card, PLAIN_VIEWS)
        embed([cache], lambda k: teacher, MissingShards.find([cache], data), 1, count_images)

    rates: dict[str, list[float]] = {"forward": [], "embed": []}
    for number in range(rounds):
        works = {"forward": bare, "embed": partial(whole, number=number)}
        for name in list(works)[:: 1 if number % 2 else -1]:
            rates[name].append(pace(works[name]))
    ratios = [embedded / forward for embedded, forward in zip(rates["embed"], rates["forward"], strict=True)]
    medians = {name: statistics.median(some) for name, some in rates.items()}
    return medians | {"embed_over_forward": statistics.median(ratios), "range": [min(ratios), max(ratios)]}


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stepper(recipe: Any) -> Callable[[], float]:
    """A function that takes one training step, loading its batch in this process, and returns the seconds it took."""
    from distill.data.pairs import Part
    from distill.lookup import resolve
    from distill.training import fill_worker, loop, prepare
    from distill.training.setup import Networks
    from distill.training.training_set import open_data
    from launch import group as processes
    from launch.launcher import Job
    from launch.launchers.local import Local

    networks, group = Networks(resolve(recipe)), processes.join()
    data = open_data(networks.resolved)
    data.fill_caches(networks, Job(Path(fill_worker.__file__), (), Path.cwd(), Local()))
    tokenizer, _ = prepare.prepare_tokenizer(networks.resolved, None, data)
    assert tokenizer is not None
    engine, _ = loop.make_engine(networks, tokenizer.vocab, None, group)
    advance = loop.make_step(networks, engine, group)
    loaded = data.batches(tokenizer, Part(0, 1, 1, 0, 10**6), pin=False)
    return lambda: timed(lambda: advance(next(loaded), 0))


def steps(shards: Path, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds per step of every kind of training; all alternate, step by step, in one process.

    Every other round is in reverse order, since background loading for one affects the step of the next.
    """
    from distill.recipe import load

    take = {}
    for name, (recipe, settings) in RUNS.items():
        given = [f"data.train={shards}", f"train.steps={options.steps}", f"train.batch_size={BATCH}"]
        given += [
            "data.workers=1",
            "student.tokenizer.vocab=120",
            "train.precision=fp32",
            *(WIDTH if recipe == "lit" else []),
        ]
        take[name] = stepper(load(recipe, [*given, *settings]))
    seconds: dict[str, list[float]] = {name: [] for name in take}
    for number in range(WARM_UP + options.steps):
        for name in list(take)[:: 1 if number % 2 else -1]:
            taken = take[name]()
            if number >= WARM_UP:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def cost(seconds: dict[str, float], rate: float) -> dict[str, Any]:
    """The figures about steps, if ``rate`` images per second are embedded in advance."""
    saved = {m: (seconds[f"{m}_online"] - seconds[f"{m}_cached"]) / BATCH for m in ("three_towers", "lit")}
    each = {method: 1 / rate / per_image for method, per_image in saved.items()}
    return {
        "step": seconds,
        "three_towers_over_scratch": seconds["three_towers_cached"] / seconds["scratch"],
        "lit_over_scratch": seconds["lit_cached"] / seconds["scratch"],
        "break_even_epochs": {f"{views} views": {m: views * epochs for m, epochs in each.items()} for views in (1, 4)},
    }


BATCH = 64
WIDTH = ["student.width=1280"]  # LiT without a head has the width of the teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
    from launch.process import set_up_process

    set_up_process()  # as the command does
    import torch

    import teachers

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = draw(folder / "shards", options.images)
        found = {
            card.name: embedding(card, shards, folder, options.rounds)
            for card in (teachers.card(TEACHER), with_random_weights(VIT, folder))
        }
        report = {"date": datetime.date.today().isoformat(), "threads": options.threads, "embedding": found}
        if options.steps:
            report |= cost(steps(shards, options), found[TEACHER]["embed"])
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
