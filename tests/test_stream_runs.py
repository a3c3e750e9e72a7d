"""Training on streams, through the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import (
    SCRATCH,
    distill,
    lines_of,
    losses_of,
    metrics,
    wait_for_step,
)
from faulty_server import FILES, Server, stalled, stalling

from distill.data.shard_names import without_secrets

SCRIPT = Path(sys.executable).with_name("distill")


def settings(*given: str) -> list[str]:
    """The options for training without a teacher, with a short time limit and the given settings."""
    return [*SCRATCH, *(word for one in ("data.timeout=2", *given) for word in ("--set", one))]


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_run_trains_on_faulty_streams_and_resumes(recipe: Path, tmp_path: Path, server: Server, nproc: int) -> None:
    """One stream stalls once, one is disconnected, one answers an error once, and one shard does not exist."""
    folders = [f"{server.url}/{fault}" for fault in ("stall@9000x1", "cut@40000x2", "500@0x1", "plain")]
    train = [f"{folder}/{name}" for folder, name in zip(folders, [*FILES, "nowhere.tar"], strict=True)]
    words = [*settings(f"data.train={json.dumps(train)}", "data.workers=1"), "--nproc", nproc]
    first = distill("train", recipe, "--out", tmp_path / "run", *words, "--set", "data.bad_samples=1")
    assert "Training on 4 streams" in first.stderr and "exact in everything but which samples" in first.stderr
    assert len(losses_of(tmp_path / "run")) == 6
    (bad_sample,) = lines_of(tmp_path / "run/bad-samples.jsonl")
    assert bad_sample["shard"].endswith("nowhere.tar") and "404" in bad_sample["reason"]
    # The last checkpoint is damaged: three steps are repeated, with newly drawn samples.
    before = [line["samples"] for line in metrics(tmp_path / "run")]
    (tmp_path / "run/checkpoints/step-00000006/state.safetensors").write_bytes(b"")
    again = distill("train", recipe, "--out", tmp_path / "run", *words, "--set", "data.bad_samples=1", "--resume")
    assert "is damaged" in again.stderr
    after = [line["samples"] for line in metrics(tmp_path / "run")]
    assert len(after) == 6 and after[:3] == before[:3] and after[3:] != before[3:]
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert "| 96 images, drawn from streams, to step-00000006 |" in (tmp_path / "export/README.md").read_text()
    strict = distill("train", recipe, "--out", tmp_path / "strict", *words, "--set", "data.bad_samples=0", status=2)
    assert "1 bad sample is more than the 0 that data.bad_samples allows" in strict.stderr


def test_missing_shards_count_as_bad_samples_before_training_too(recipe: Path, tmp_path: Path, server: Server) -> None:
    train = json.dumps([f"{server.url}/plain/{name}" for name in ("nowhere.tar", FILES[0])])
    words = settings(f"data.train={train}", "data.bad_samples=0")
    error = distill("train", recipe, "--out", tmp_path / "run", *words, status=2).stderr
    assert "1 bad sample is more than the 0" in error and "(before training)" in error
    assert not (tmp_path / "run").exists()


def test_possible_secrets_in_addresses_are_only_in_the_recipe_of_the_run(
    recipe: Path, tmp_path: Path, server: Server, folder: Path
) -> None:
    secret = f"pipe:echo sesame >&2; cat {folder / FILES[0]}"
    address = server.url.replace("//", "//user:sesame@") + "/plain/nowhere.tar?key=sesame"
    words = settings(f"data.train={json.dumps([address, secret])}", "data.bad_samples=1", "train.steps=2")
    distill("train", recipe, "--out", tmp_path / "run", *words, "--allow-pipe")
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert "sesame" in (tmp_path / "run/recipe.toml").read_text()
    exported = json.loads((tmp_path / "export/config.json").read_text())["provenance"]["recipe"]["data"]["train"]
    assert exported == [without_secrets(address), without_secrets(secret)]
    (bad_sample,) = lines_of(tmp_path / "run/bad-samples.jsonl")
    assert bad_sample["shard"] == exported[0] and exported[0].startswith(f"{server.url}/plain/nowhere.tar (")
    files = [path for path in (tmp_path / "run", tmp_path / "export") for path in path.rglob("*") if path.is_file()]
    assert {path.name for path in files if b"sesame" in path.read_bytes()} == {"recipe.toml"}
    assert exported[1].startswith("pipe:echo (") and without_secrets("s3://bucket/a.tar") == "s3://bucket/a.tar"


def test_three_towers_train_on_streams_in_micro_batches(recipe: Path, tmp_path: Path, server: Server) -> None:
    words = ["--set", "teacher.0.cache=none", "--set", "train.micro_batch=4", "--set", "train.steps=3"]
    words += ["--set", f"data.train={server.url}/plain/train-{{000000..000002}}.tar"]
    distill("train", recipe, "--out", tmp_path / "run", *words)
    assert len(losses_of(tmp_path / "run")) == 3
    assert json.loads((tmp_path / "run/run.json").read_text())["shards"] == 3


@pytest.mark.parametrize("shell", [[], ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]], ids=["", "deaf to SIGINT"])
def test_loaders_and_commands_end_when_the_training_is_killed(
    recipe: Path, tmp_path: Path, folder: Path, shell: list[str]
) -> None:
    """Also if it ignores SIGINT, like background jobs of a shell script."""
    flag, run = tmp_path / "flag", tmp_path / "run"
    words = [*settings(f"data.train={json.dumps(stalling(folder, flag))}", "data.workers=2", "data.timeout=600")]
    words += ["--set", "train.steps=100000", "--allow-pipe", "--out", str(run)]
    process = subprocess.Popen([*shell, SCRIPT, "train", str(recipe), *words], stderr=subprocess.DEVNULL)
    wait_for_step(run, 3, process)
    flag.touch()
    waiting = stalled(psutil.Process(process.pid), 2)
    process.kill()
    process.wait()
    assert len(waiting) >= 4 and not psutil.wait_procs(waiting, timeout=20)[1]


def test_a_recipe_runs_a_command_only_with_allow_pipe(recipe: Path, tmp_path: Path, folder: Path) -> None:
    flag = tmp_path / "ran"
    harmful = f"pipe:touch {flag}; cat {folder / FILES[0]}"
    for train in (harmful, f"{{http://127.0.0.1:9/a.tar,{harmful}}}"):
        words = settings(f"data.train={json.dumps(train)}")
        refused = distill("train", recipe, "--out", tmp_path / "run", *words, status=2).stderr
        assert "The recipe runs a command: pipe:touch" in refused and "--allow-pipe" in refused
        assert not flag.exists() and not (tmp_path / "run").exists()
    words = settings(f"data.train={json.dumps(harmful)}")
    distill("train", recipe, "--out", tmp_path / "run", *words, "--allow-pipe")
    assert flag.exists() and len(losses_of(tmp_path / "run")) == 6
    # Resuming a run requires the option too.
    os.rename(tmp_path / "run/checkpoints/step-00000006", tmp_path / "away")
    flag.unlink()
    again = ("train", tmp_path / "run/recipe.toml", "--out", tmp_path / "run", "--resume")
    assert "runs a command" in distill(*again, status=2).stderr and not flag.exists()


@pytest.mark.parametrize(
    "given, words",
    [
        (["data.train={http://host/a.tar,pipe}"], "'pipe' is no stream that can be read"),
        (["data.train=ftp://host/a.tar"], "no stream that can be read"),
        (["data.train=htp://host/a.tar"], "Did you mean 'http'?"),
        (['data.train=["https://host/a.tar","shards"]'], "is no stream that can be read"),
        (["data.train=https://host/a.tar", "train.epochs=3"], "streams have no epochs"),
        (['data.train=["http://host/a.tar","http://host/a.tar"]'], "named twice"),
        (
            ["data.train=http://127.0.0.1:9/a.tar", "data.retries=0", "data.bad_samples=5"],
            "1 stream could not be read.*refused",
        ),
        (["data.train=https://host/a.tar", "data.timeout=0"], "'data.timeout' does not check out"),
        (["data.train=https://host/a.tar", "data.timeout=inf"], "'data.timeout' does not check out"),
    ],
)
def test_invalid_streams_are_refused(recipe: Path, tmp_path: Path, given: list[str], words: str) -> None:
    error = distill("train", recipe, "--out", tmp_path / "run", *settings(*given), status=2).stderr
    assert re.search(words, error), error
    assert not (tmp_path / "run").exists() and "Traceback" not in error


def test_streams_are_refused_except_for_training_without_a_cache(recipe: Path, tmp_path: Path, server: Server) -> None:
    address = f"{server.url}/plain/{FILES[0]}"
    for words in (("data", "check", address), ("data", "index", address)):
        assert "is a remote stream" in distill(*words, status=2).stderr
    assert (
        "has a cache, and data.train are streams"
        in distill("train", recipe, "--out", tmp_path / "run", "--set", f"data.train={address}", status=2).stderr
    )
