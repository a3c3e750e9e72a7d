"""Trainings on streams, through the command line."""

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
    """Those of a recipe without a teacher, and more."""
    return [*SCRATCH, *(word for one in ("data.timeout=2", *given) for word in ("--set", one))]


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_run_trains_on_faulty_streams_and_goes_on(recipe: Path, tmp_path: Path, server: Server, nproc: int) -> None:
    """A stall, a cut and a refusal on the way, and one shard that does not exist."""
    places = [f"{server.url}/{fault}" for fault in ("stall@9000x1", "cut@40000x2", "500@0x1", "plain")]
    train = [f"{place}/{name}" for place, name in zip(places, [*FILES, "nowhere.tar"], strict=True)]
    words = [*settings(f"data.train={json.dumps(train)}", "data.workers=1"), "--nproc", nproc]
    first = distill("train", recipe, "--out", tmp_path / "run", *words, "--set", "data.bad_samples=1")
    assert "Training on 4 streams" in first.stderr and "exact in everything but which samples" in first.stderr
    assert len(losses_of(tmp_path / "run")) == 6
    (noted,) = lines_of(tmp_path / "run/bad-samples.jsonl")
    assert noted["shard"].endswith("nowhere.tar") and "404" in noted["reason"]
    # The last checkpoint is damaged: three steps are taken anew, on samples that are drawn anew.
    before = [line["samples"] for line in metrics(tmp_path / "run")]
    (tmp_path / "run/checkpoints/step-00000006/state.safetensors").write_bytes(b"")
    again = distill("train", recipe, "--out", tmp_path / "run", *words, "--set", "data.bad_samples=1", "--resume")
    assert "is damaged" in again.stderr
    after = [line["samples"] for line in metrics(tmp_path / "run")]
    assert len(after) == 6 and after[:3] == before[:3] and after[3:] != before[3:]
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert "| 96 images, drawn from streams, to step-00000006 |" in (tmp_path / "export/README.md").read_text()
    strict = distill("train", recipe, "--out", tmp_path / "strict", *words, "--set", "data.bad_samples=0", status=2)
    assert "1 bad samples are more than the 0 that data.bad_samples allows" in strict.stderr


def test_shards_that_are_not_there_count_before_training_too(recipe: Path, tmp_path: Path, server: Server) -> None:
    train = json.dumps([f"{server.url}/plain/{name}" for name in ("nowhere.tar", FILES[0])])
    words = settings(f"data.train={train}", "data.bad_samples=0")
    said = distill("train", recipe, "--out", tmp_path / "run", *words, status=2).stderr
    assert "1 bad samples are more than the 0" in said and "(before training)" in said
    assert not (tmp_path / "run").exists()


def test_what_may_be_secret_in_an_address_does_not_ship(
    recipe: Path, tmp_path: Path, server: Server, folder: Path
) -> None:
    secret = f"pipe:echo sesame >&2; cat {folder / FILES[0]}"
    shut = server.url.replace("//", "//user:sesame@") + "/plain/nowhere.tar?key=sesame"
    words = settings(f"data.train={json.dumps([shut, secret])}", "data.bad_samples=1", "train.steps=2")
    distill("train", recipe, "--out", tmp_path / "run", *words, "--allow-pipe")
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    assert "sesame" in (tmp_path / "run/recipe.toml").read_text()
    told = json.loads((tmp_path / "export/config.json").read_text())["provenance"]["recipe"]["data"]["train"]
    assert told == [without_secrets(shut), without_secrets(secret)]
    (noted,) = lines_of(tmp_path / "run/bad-samples.jsonl")
    assert noted["shard"] == told[0] and told[0].startswith(f"{server.url}/plain/nowhere.tar (")
    others = [path for path in (tmp_path / "run", tmp_path / "export") for path in path.rglob("*") if path.is_file()]
    assert {path.name for path in others if b"sesame" in path.read_bytes()} == {"recipe.toml"}
    assert told[1].startswith("pipe:echo (") and without_secrets("s3://bucket/a.tar") == "s3://bucket/a.tar"


def test_three_towers_train_on_streams_in_micro_batches(recipe: Path, tmp_path: Path, server: Server) -> None:
    words = ["--set", "teacher.0.cache=none", "--set", "train.micro_batch=4", "--set", "train.steps=3"]
    words += ["--set", f"data.train={server.url}/plain/train-{{000000..000002}}.tar"]
    distill("train", recipe, "--out", tmp_path / "run", *words)
    assert len(losses_of(tmp_path / "run")) == 3
    assert json.loads((tmp_path / "run/run.json").read_text())["shards"] == 3


@pytest.mark.parametrize("shell", [[], ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]], ids=["", "deaf to SIGINT"])
def test_loaders_and_commands_end_with_a_training_that_is_killed(
    recipe: Path, tmp_path: Path, folder: Path, shell: list[str]
) -> None:
    """Whoever has started it: a script's background jobs ignore SIGINT."""
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


def test_a_recipe_runs_no_command_that_is_not_allowed(recipe: Path, tmp_path: Path, folder: Path) -> None:
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
    # Nor does a run from elsewhere, when it is resumed.
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
            "1 streams in a row could not be read.*refused",
        ),
        (["data.train=https://host/a.tar", "data.timeout=0"], "'data.timeout' does not check out"),
        (["data.train=https://host/a.tar", "data.timeout=inf"], "'data.timeout' does not check out"),
    ],
)
def test_streams_that_make_no_sense_are_refused(recipe: Path, tmp_path: Path, given: list[str], words: str) -> None:
    said = distill("train", recipe, "--out", tmp_path / "run", *settings(*given), status=2).stderr
    assert re.search(words, said), said
    assert not (tmp_path / "run").exists() and "Traceback" not in said


def test_only_training_reads_streams(recipe: Path, tmp_path: Path, server: Server) -> None:
    address = f"{server.url}/plain/{FILES[0]}"
    for words in (("data", "check", address), ("data", "index", address)):
        assert "is a remote stream" in distill(*words, status=2).stderr
    assert (
        "has a cache, and data.train are streams"
        in distill("train", recipe, "--out", tmp_path / "run", "--set", f"data.train={address}", status=2).stderr
    )
