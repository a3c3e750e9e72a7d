"""The order of training: complete in every epoch, a function of seed and epoch, as well mixed as a full shuffle."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import sample, write_shards, write_tar
from safetensors.numpy import load_file, save_file

from distill.data.keyed_random import Permutation, shuffled
from distill.data.order import RUN, STRIPE, Order, WindowOrder
from distill.data.pairs import Schedule, on_one_machine
from distill.data.read_ahead import CERTAIN, EVERY, is_cached, parts_by_shard, read_ahead
from distill.data.sample_table import SampleTable, TableBuilder
from distill.data.shards import SAMPLES, Shards
from distill.errors import BadSample, UserError

COUNTS = np.array([5, 1, 0, 12, 30])
PINNED = {
    "1": [9, 11, 15, 14, 8, 12, 10, 13, 16, 3, 17, 0, 2, 19, 1, 18, 5, 4, 7, 6],
    "2": [15, 0, 4, 13, 16, 14, 1, 9, 5, 7, 2, 10, 11, 6, 17, 8, 19, 18, 12, 3],
}
ORDERS = [
    *(Order(COUNTS, 3, stripe, run) for stripe, run in ((1, 1), (2, 2), (5, 3), (7, 3), (4, 8), (10, 8), (1000, 8))),
    *(WindowOrder(COUNTS, 3, window) for window in (1, 7, 1000)),
]


@pytest.mark.parametrize("order", ORDERS)
def test_every_epoch_visits_every_sample_once_in_another_order(order: Order) -> None:
    stream = list(order.between(0, 3 * 48))
    epochs = [[i for e, i in stream if e == epoch] for epoch in range(3)]
    assert [e for e, _ in stream] == sorted(e for e, _ in stream)
    for epoch in epochs:
        assert sorted(epoch) == list(range(48))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] != list(range(48))


def fresh(order: Order, seed: int = 3) -> Order:
    """Another order of the same kind, with nothing computed yet."""
    copy = object.__new__(type(order))
    copy.__dict__.update(order.__getstate__() | {"seed": seed})
    return copy


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_can_be_started_at_any_position_and_depends_on_the_seed(order: Order) -> None:
    whole = list(fresh(order).between(0, 200))
    for start in (0, 1, 6, 7, 47, 48, 100, 143):
        assert list(fresh(order).between(start, 200)) == whole[start:]
    jumping = fresh(order)
    assert [jumping.at(p) for p in (199, 3, 150, 60, 3)] == [whole[p] for p in (199, 3, 150, 60, 3)]
    assert list(fresh(order, seed=4).between(0, 200)) != whole


def test_the_order_never_changes() -> None:
    """Or a run of an earlier version would not continue as it began; both were computed by the first version."""
    assert [i for _, i in Order(np.array([20]), 0, stripe=4, run=2).between(20, 40)] == PINNED["2"]
    assert [i for _, i in WindowOrder(np.array([5, 3, 12]), 0, window=8).between(20, 40)] == PINNED["1"]


@pytest.mark.parametrize("samples, stride", [(12, 12), (24, 12), (30, 12), (100, 7)])
def test_every_other_sample_is_eventually_a_replacement(samples: int, stride: int) -> None:
    order = Order(np.array([samples]), 0, stripe=5, run=3)
    for position in (0, samples - 1, 5 * samples + 3):
        found = [order.replacement(position, number, stride) for number in range(1, 1000)]
        own = order.at(position)[1]
        assert set(found) | {own} == set(range(samples)) and found[0] != own


@pytest.mark.parametrize("batch", [256, 1024, 4096, 32_768])
def test_batches_of_data_stored_class_by_class_are_like_those_of_a_full_shuffle(batch: int) -> None:
    """1,000 classes of 1,280 samples; the shuffle is NumPy's. The order sees no shards, so their size is no matter."""
    classes = np.repeat(np.arange(1000), 1280)
    order = np.fromiter(
        (i for _, i in Order(np.array([len(classes)]), seed=0).between(0, len(classes))), dtype=np.int64
    )
    shuffle = np.random.default_rng(0).permutation(len(classes))
    starts = range(0, len(classes) - batch, max(batch, len(classes) // 40))

    def statistics(numbers: np.ndarray) -> tuple[float, float, float]:
        """Mean and least number of classes in a batch, and the share of pairs of the same class, all averages."""
        counts = [np.bincount(classes[numbers[k : k + batch]], minlength=1000) for k in starts]
        distinct = [np.count_nonzero(count) for count in counts]
        return np.mean(distinct), min(distinct), np.mean([(c * (c - 1)).sum() for c in counts]) / batch / (batch - 1)

    ours, full = statistics(order), statistics(shuffle)
    assert ours[0] >= 0.99 * full[0] and ours[1] >= 0.95 * full[1]
    assert ours[2] == pytest.approx(0.001, rel=0.05) and full[2] == pytest.approx(0.001, rel=0.05)
    ordered = statistics(np.arange(len(classes)))
    assert ordered[0] <= batch / 1280 + 2 and ordered[2] > 0.03, "the statistics tell bad orders"


@pytest.mark.parametrize("samples", [1, 1000, STRIPE * 2, STRIPE * RUN - 1, STRIPE * RUN, STRIPE * 9 + 5, 300_001])
def test_what_is_read_together_covers_every_sample_once_before_it_is_needed(samples: int) -> None:
    order = Order(np.array([samples]), seed=1)
    numbers = [i for _, i in order.between(0, samples)]
    assert np.array_equal(np.sort(numbers), np.arange(samples))
    when = np.empty(samples, dtype=np.int64)  # the step in which each sample is needed
    for step, start in enumerate(range(0, samples, 1000)):
        when[numbers[start : start + 1000]] = step
    covered, lengths = np.zeros(samples, dtype=np.int64), Counter[int]()
    for step, start in enumerate(range(0, samples, 1000)):
        for first, count in order.ahead(start, min(start + 1000, samples)).tolist():
            covered[first : first + count] += 1
            assert count > 0 and first + count <= samples and (when[first : first + count] >= step).all()
            lengths[count] += count
    assert (covered == 1).all()
    whole = min(RUN, max(1, samples // STRIPE))
    if samples > 2 * whole * STRIPE:
        assert lengths[whole] > 0.5 * samples, "most are read in whole runs"


def test_the_order_of_ten_billion_samples_takes_few_megabytes() -> None:
    tracemalloc.start()
    counts = np.full(100_000, 100_000)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    order = Order(counts, seed=1)
    seen = {i for position in (0, 3 * 10**9, 25 * 10**9 + 5) for _, i in order.between(position, position + 20_000)}
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert len(seen) >= 59_990 and peak < 60e6
    spread = np.array(sorted(seen)) / 1e10
    assert np.abs(np.quantile(spread, np.arange(0.1, 1, 0.1)) - np.arange(0.1, 1, 0.1)).max() < 0.02, "from everywhere"


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1000, 4096, 70_001])
def test_a_permutation_is_one_and_hardly_any_number_stays(size: int) -> None:
    numbers = np.arange(size)
    for name in ("a", "b"):
        found = Permutation(name, size)(numbers)
        assert np.array_equal(np.sort(found), numbers) and np.array_equal(np.sort(shuffled(name, size)), numbers)
        assert np.array_equal(Permutation(name, size)(numbers[::3]), found[::3]), "each number by itself"
        if size > 90:
            for other in (found, shuffled(name, size)):
                assert np.count_nonzero(other == numbers) < 8, "one is expected"
                assert abs(np.corrcoef(other, numbers)[0, 1]) < 5 / size**0.5
                assert np.count_nonzero(np.diff(other) == 1) < 8


def test_every_number_is_equally_likely_in_every_place() -> None:
    places = np.stack([Permutation(f"{n}", 200)(np.arange(200)) for n in range(2000)])
    short = np.stack([shuffled(f"{n}", 4) for n in range(4800)])
    for column in (0, 7, 199):
        counts = np.bincount(places[:, column], minlength=200)
        assert ((counts - 10) ** 2 / 10).sum() < 280, "chi squared with 199 degrees of freedom: 1 in 10,000 is above"
    counts = np.array(list(Counter(map(tuple, short)).values()))
    assert len(counts) == 24 and ((counts - 200) ** 2 / 200).sum() < 55, "all orders of four; 23 degrees of freedom"


@pytest.mark.parametrize("world, pieces", [(1, 1), (2, 1), (4, 2), (12, 1)])
def test_all_processes_together_have_the_same_batches(world: int, pieces: int) -> None:
    order = Order(np.array([100, 31]), seed=5, stripe=16, run=4)
    parts = [list(Schedule(order, 24, rank, world, 3, 9, pieces=pieces)) for rank in range(world)]
    for step in range(3, 9):
        slots = [slot for part in parts for piece in part[(step - 3) * pieces : (step - 2) * pieces] for slot in piece]
        assert [(slot.epoch, slot.sample) for slot in slots] == list(order.between(step * 24, (step + 1) * 24))
        assert [slot.position for slot in slots] == list(range(step * 24, (step + 1) * 24))


def test_processes_on_several_machines_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_NODES", raising=False)
    assert on_one_machine(1) and on_one_machine(8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert on_one_machine(4) and not on_one_machine(8)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    assert not on_one_machine(8)


def saved(tmp_path: Path, *counts: int) -> tuple[Shards, Shards]:
    """Opened shards, and the same as a run's processes load them."""
    write_shards(tmp_path / "data", counts)
    shards = Shards.open([str(tmp_path / "data")])
    (tmp_path / "run").mkdir()
    shards.save(tmp_path / "run" / "shards.safetensors")
    shards.save_samples(tmp_path / "run")
    return shards, Shards.load(tmp_path / "run" / "shards.safetensors")


def test_samples_are_the_same_with_and_without_a_table(tmp_path: Path) -> None:
    shards, loaded = saved(tmp_path, 5, 1, 7)
    assert loaded.table is not None and loaded.table.folder == tmp_path / "run" / SAMPLES
    without = Shards(shards.indexes, shards.counts)
    assert without.table is None
    for i in range(13):
        assert shards.read(i) == loaded.read(i) == without.read(i)
        assert shards.key(i) == loaded.key(i) == without.key(i) == f"{i:06d}"
        for one in (shards, loaded, without):
            one.read_ahead(np.array([[i, min(8, 13 - i)]]))
    (tmp_path / "too-large").mkdir()
    without.save_samples(tmp_path / "too-large")  # from the indexes, one after another
    for name in os.listdir(tmp_path / "run" / SAMPLES):
        assert (tmp_path / "too-large" / SAMPLES / name).read_bytes() == (
            tmp_path / "run" / SAMPLES / name
        ).read_bytes()


def test_a_table_that_would_be_too_large_is_not_kept(tmp_path: Path) -> None:
    shards, _ = saved(tmp_path, 5, 1, 7)
    for limit, kept in ((10_000, True), (500, False)):
        builder = TableBuilder(limit)
        for index in shards.indexes:
            builder.add(index)
        assert (builder.table() is not None) == kept and bool(builder.chunks) == kept


@pytest.mark.parametrize("damage", ["gone", "cut", "of-others", "no-keys"])
def test_samples_are_found_without_a_table_that_is_damaged(tmp_path: Path, damage: str) -> None:
    shards, _ = saved(tmp_path, 5, 7)
    folder = tmp_path / "run" / SAMPLES
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "cut":
        (folder / "members.npy").write_bytes((folder / "members.npy").read_bytes()[:-8])
    elif damage == "of-others":
        np.save(folder / "key_ends.npy", np.arange(5))
    else:
        (folder / "keys").write_bytes(b"")
    loaded = Shards.load(tmp_path / "run" / "shards.safetensors")
    assert loaded.table is None and [loaded.read(i) for i in range(12)] == [shards.read(i) for i in range(12)]
    assert SampleTable.load(folder, 12, 2) is None


def test_a_table_is_not_believed_about_a_shard_that_has_changed(tmp_path: Path) -> None:
    shards, _ = saved(tmp_path, 5, 7)
    expected = [shards.read(i) for i in range(12)]
    first, second = sorted((tmp_path / "data").glob("*.tar"))
    os.utime(first, ns=(1, 1))  # such as by a copy: another time, the same content
    write_tar(second, sample("new", "circle", "red", 0))
    loaded = Shards.load(tmp_path / "run" / "shards.safetensors")
    assert [loaded.read(i) for i in range(5)] == expected[:5]
    with pytest.raises(BadSample, match="has been replaced"):
        loaded.read(7)
    loaded.read_ahead(np.array([[0, 12]]))
    second.unlink()
    with pytest.raises(BadSample, match="gone"):
        Shards.load(tmp_path / "run" / "shards.safetensors").read(7)


def test_a_run_keeps_the_order_in_which_it_was_started(tmp_path: Path) -> None:
    shards, loaded = saved(tmp_path, 5, 7)
    assert type(shards.order_of(0)) is type(loaded.order_of(0)) is Order
    path = tmp_path / "run" / "shards.safetensors"
    tensors = load_file(path)
    save_file(tensors, path)  # as before there were several orders
    assert type(Shards.load(path).order_of(0)) is WindowOrder
    save_file(tensors, path, metadata={"order": "3"})
    with pytest.raises(UserError, match="a later version of distill wrote it"):
        Shards.load(path)


def test_consecutive_runs_are_from_different_shards() -> None:
    order = Order(np.full(100, 1000), seed=0, stripe=1000)
    shards = [i // 1000 for _, i in order.between(5000, 6000)]
    assert len(set(shards)) > 95 and sum(a == b for a, b in pairwise(shards)) < 40, "10 are expected"


def test_the_parts_of_runs_in_each_shard_are_those_of_looking_up_every_sample() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 6, rng.integers(1, 12))
        if not (total := int(counts.sum())):
            continue
        firsts = rng.integers(0, total, 5)
        runs = np.stack([firsts, [int(rng.integers(1, total - first + 1)) for first in firsts]], axis=1)
        starts = np.concatenate([[0], np.cumsum(counts)])
        expected = [
            (shard, part[0], part[-1])
            for first, count in runs.tolist()
            for shard, group in groupby(
                range(first, first + count), key=lambda i: int(starts.searchsorted(i, side="right")) - 1
            )
            for part in [list(group)]
        ]
        assert np.stack(parts_by_shard(runs, starts), axis=1).tolist() == [list(part) for part in expected]


def test_what_is_read_ahead_is_in_the_cache_before_it_is_read(tmp_path: Path) -> None:
    """Whole runs with the bytes between, each of several shards."""
    noise = np.random.default_rng(0).bytes(1 << 17)
    for n in range(3):
        members = [(f"{n}{k:02d}.{end}", noise if end == "jpg" else b"x") for k in range(40) for end in ("jpg", "txt")]
        write_tar(tmp_path / f"{n}.tar", members)
    shards = Shards.open([str(tmp_path)])
    files = [os.open(path, os.O_RDONLY) for path in sorted(tmp_path.glob("*.tar"))]
    for file in files:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    assert shards.table is not None
    spans = shards.table.members[:, 0]

    def cached(i: int) -> bool:
        start, size = spans[i].tolist()
        return all(is_cached(files[i // 40], start + k) for k in range(0, size, 4096))

    if any(map(cached, range(120))):
        pytest.skip("this file system keeps files in its cache")
    asked = [*range(36, 44), 90, 20, 21]
    shards.read_ahead(np.array([[36, 8], [90, 1], [20, 2]]))
    end = time.monotonic() + 30
    while not all(map(cached, asked)):
        assert time.monotonic() < end
        time.sleep(0.01)
    for file in files:
        os.close(file)


def test_of_runs_that_are_in_the_cache_only_some_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until one is not there: looking up all takes as long as a tenth of reading them."""
    members = [(f"{k:02d}.{end}", b"x" * 9000) for k in range(40) for end in ("jpg", "txt")]
    shards, looked_up = Shards.open([str(write_tar(tmp_path / "a.tar", members))]), list[bool]()

    def spied(file: int, start: int, length: int) -> bool:
        looked_up.append(read_ahead(file, start, length))
        return looked_up[-1]

    monkeypatch.setattr("distill.data.shards.read_ahead", spied)
    for i in range(40):
        shards.read(i)
    runs = np.array([[i, 1] for i in range(40)])
    shards.read_ahead(runs)
    if not all(looked_up):
        pytest.skip("this file system does not say what is in its cache")
    shards.read_ahead(runs)
    assert len(looked_up) == 80 >= CERTAIN
    shards.read_ahead(runs)
    assert len(looked_up) == 80 + 40 // EVERY
    shards._in_cache = 0  # as after a run that was not there
    shards.read_ahead(runs)
    assert len(looked_up) == 120 + 40 // EVERY
