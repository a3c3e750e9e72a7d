"""Studies: real, tiny runs in variants, their table, interruptions, failures, and what a repeated command does."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from conftest import (
    RECIPE,
    SCRATCH,
    distill,
    encoded,
    evaluated,
    lines_of,
    losses_of,
    picture,
    wait_for_step,
    write_shards,
    write_tar,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import distill as package
from distill.recipe import load
from distill.studies.comparison import compare
from distill.studies.measured import Results
from distill.studies.settings import as_toml, axes_from, packaged_grids, read_grid, settings_of_axes, split
from distill.studies.table import as_markdown, as_text
from distill.studies.variants import make_variants
from distill.training.run_lock import locked

SCRIPT = [sys.executable, "-c", "import sys; sys.argv[0] = 'distill'; from distill.cli.main import main; main()"]
VARIANTS = ["--axis", "objective.weight=0.5", "--variant", "no heads: objective.heads=none"]
# Its first step makes all weights so large that nothing is finite in the second.
DIVERGES = ["--variant", "diverges: optim.lr=1e30; optim.warmup=0"]
DRAWN = encoded(picture("circle", "red", 1))
NAMES = ["reference", "objective.weight=0.5", "no heads", "diverges"]


def write_recipe(home: Path) -> None:
    """Shards to train and to evaluate on, and the recipe of the studies."""
    write_shards(home / "shards")
    write_shards(home / "unseen", (24,), first=100)
    text = RECIPE.format(shards="shards").replace("[data]", '[data]\neval = "unseen"')
    (home / "recipe.toml").write_text(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of four variants and two seeds, of which one variant fails."""
    home = tmp_path_factory.mktemp("home")
    write_recipe(home)
    study(home, "whole", *VARIANTS, *DIVERGES, "--seeds", 2, status=1)
    return home


def study(home: Path, out: str, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    return distill("study", "recipe.toml", "--out", out, "--task", "retrieval", *words, cwd=home, status=status)


def copied(home: Path, folder: Path) -> Path:
    """A copy of the study that a test may change, beside the same files."""
    shutil.copytree(home, folder / "home")
    return folder / "home"


def summary_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "study.json").read_text()))


def variants_of(summary: dict[str, Any], metric: str) -> dict[str, Any]:
    (found,) = (one for one in summary["results"] if one["metric"] == metric)
    return dict(found["variants"])


def test_numbers_are_those_of_the_runs_and_of_numpy(home: Path) -> None:
    """Every number of study.json, from ``distill evaluate`` of each run and from NumPy and SciPy."""
    summary = summary_of(home / "whole")
    assert list(summary["variants"]) == NAMES and summary["reference"] == "reference" and summary["seeds"] == [0, 1]
    metrics: dict[str, list[dict[str, float]]] = {}
    for name in NAMES[:3]:
        folder = home / "whole" / summary["variants"][name]["folder"]
        metrics[name] = [evaluated(folder / f"seed-{k}", "--task", "retrieval")["metrics"] for k in (0, 1)]
    assert metrics["reference"][0] != metrics["reference"][1], "the seed changes nothing"
    assert {one["metric"] for one in summary["results"]} == metrics["reference"][0].keys()
    for one in summary["results"]:
        for name in NAMES[:3]:
            own, found = [run[one["metric"]] for run in metrics[name]], one["variants"][name]
            assert list(found["values"].values()) == pytest.approx(own)
            assert found["value"]["mean"] == pytest.approx(np.mean(own))
            assert found["value"]["std"] == pytest.approx(np.std(own, ddof=1))
            if name == "reference":
                assert found["difference"]["count"] == 0 and found["differences"] == {}
                continue
            paired = np.subtract(own, [run[one["metric"]] for run in metrics["reference"]])
            assert list(found["differences"].values()) == pytest.approx(paired.tolist())
            assert found["difference"]["mean"] == pytest.approx(paired.mean())
            assert found["difference"]["two_standard_errors"] == pytest.approx(2 * scipy.stats.sem(paired))


def test_runs_are_ordinary_runs_with_their_last_checkpoint(home: Path) -> None:
    for folder in (home / "whole" / "runs" / "no-heads").iterdir():
        assert [path.name for path in folder.glob("checkpoints/step-*")] == ["step-00000006"]
        assert package.load(folder).encode_text("a red circle").shape == (1, 32)
        assert json.loads((folder / "run.json").read_text())["seed"] == int(folder.name.removeprefix("seed-"))
        assert load(str(folder / "recipe.toml")).objective.options["heads"] == "none"
    caches = list((home / "shards").glob("**/*.safetensors"))
    assert caches and len({path.parent for path in caches if "teacher" in str(path)}) <= 1, "one cache for all runs"


def test_a_variant_that_fails_is_recorded_and_the_others_go_on(home: Path) -> None:
    summary = summary_of(home / "whole")
    assert [(one["variant"], one["seed"]) for one in summary["failed"]] == [("diverges", 0), ("diverges", 1)]
    assert all("was not finite" in one["message"] for one in summary["failed"])
    assert variants_of(summary, "mean_r10")["diverges"]["value"]["count"] == 0
    states = {name: set(one["runs"].values()) for name, one in summary["variants"].items()}
    assert states == {**dict.fromkeys(NAMES[:3], {"complete"}), "diverges": {"begun"}}
    text = (home / "whole" / "study.md").read_text()
    assert "## Failed" in text and "| diverges | 0 of 2 |" not in text and "`optim.lr=1e30`" in text


def test_a_task_that_cannot_be_done_ends_the_study_after_the_first_run(tmp_path: Path) -> None:
    """Its captions say no language: otherwise every run would be trained before that is seen."""
    write_recipe(tmp_path)
    for tar in (tmp_path / "unseen").glob("*.tar"):
        members = [[(f"{k}.png", DRAWN), (f"{k}.txt", f"circle {k}".encode())] for k in range(24)]
        write_tar(tar, [member for sample in members for member in sample])
    words = ["--option", 'languages=["de"]', "--seeds", 2]
    said = study(tmp_path, "study", *words, *VARIANTS, status=2).stderr
    assert "trained, and the first evaluation fails: No caption says that its language is de" in said
    assert len(list((tmp_path / "study" / "runs").glob("*/*"))) == 1
    study(tmp_path, "study", "--seeds", 1, "--limit-variants", "reference", *VARIANTS)
    assert variants_of(summary_of(tmp_path / "study"), "mean_r10")["reference"]["value"]["count"] == 1


def test_more_seeds_and_variants_do_only_what_is_new(home: Path, tmp_path: Path) -> None:
    copy = copied(home, tmp_path)
    before = (copy / "whole" / "results.jsonl").read_text()
    old = {path: path.read_bytes() for path in (copy / "whole" / "runs").glob("*/seed-[01]/metrics.jsonl")}
    times = {path: path.stat().st_mtime_ns for path in old}
    words = ["--variant", "MLP: objective.adapter=mlp", "--seeds", 3]
    result = study(copy, "whole", *VARIANTS, *words)
    assert result.stderr.count(": training\n") == 3 + 3 and result.stderr.count(": evaluating\n") == 3 + 3
    assert all(path.read_bytes() == old[path] and path.stat().st_mtime_ns == times[path] for path in old)
    after = (copy / "whole" / "results.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == len(before.splitlines()) + 6
    earlier, later = summary_of(home / "whole"), summary_of(copy / "whole")
    for name in NAMES[:3]:
        new, own = variants_of(later, "mean_r10")[name], variants_of(earlier, "mean_r10")[name]
        assert new["value"]["count"] == 3 and own["values"].items() < new["values"].items()
    assert variants_of(later, "mean_r10")["MLP"]["difference"]["count"] == 3 and not later["failed"]
    # Fewer seeds again: the tables have those that are asked for, and nothing is made.
    again = study(copy, "whole", *VARIANTS, "--seeds", 2)
    assert "training" not in again.stderr and "evaluating" not in again.stderr
    assert variants_of(summary_of(copy / "whole"), "mean_r10").items() <= variants_of(earlier, "mean_r10").items()


def test_another_task_or_other_samples_are_measured_without_training(home: Path, tmp_path: Path) -> None:
    copy = copied(home, tmp_path)
    result = study(copy, "whole", *VARIANTS, "--seeds", 2, "--option", "retrieval.languages=de")
    assert ": training" not in result.stderr and result.stderr.count(": evaluating\n") == 6
    first = variants_of(summary_of(copy / "whole"), "mean_r10")
    assert first != {k: v for k, v in variants_of(summary_of(home / "whole"), "mean_r10").items() if k in first}
    write_shards(copy / "unseen", (20,), first=300)  # other samples under the same name
    result = study(copy, "whole", *VARIANTS, "--seeds", 2)
    assert ": training" not in result.stderr and result.stderr.count(": evaluating\n") == 6
    assert lines_of(copy / "whole" / "results.jsonl")[-1]["results"][0]["images"] == 20


def test_an_interrupted_study_goes_on_to_the_same_table(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    words = ["--axis", "objective.weight=0.5", "--seeds", "1", "--set", "train.steps=60"]
    words += ["--set", "checkpoint.every_steps=1000"]
    whole = study(tmp_path, "whole", *words)
    assert "There is one seed, so there is no estimate of the error" in whole.stdout
    command = [*SCRIPT, "study", "recipe.toml", "--out", "parts", "--task", "retrieval", *words]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    second = tmp_path / "parts" / "runs" / "objective.weight=0.5" / "seed-0"
    wait_for_step(second, 5, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and "Traceback" not in err, (out, err)
    assert out.splitlines()[-1].strip().startswith("distill study recipe.toml --out parts")
    first = summary_of(tmp_path / "parts")
    assert first["variants"]["objective.weight=0.5"]["runs"] == {"0": "begun"}
    assert variants_of(first, "mean_r10")["reference"]["value"]["count"] == 1
    result = study(tmp_path, "parts", *words)
    assert result.stderr.count("training goes on\n") == 1 and ": training\n" not in result.stderr
    folders = [tmp_path / out / "runs" / "objective.weight=0.5" / "seed-0" for out in ("parts", "whole")]
    assert losses_of(folders[0]) == losses_of(folders[1])
    assert summary_of(tmp_path / "parts") == summary_of(tmp_path / "whole")
    assert (tmp_path / "parts" / "study.md").read_text() == (tmp_path / "whole" / "study.md").read_text()


def test_a_signal_while_evaluating_lets_the_evaluation_be_completed(home: Path, tmp_path: Path) -> None:
    copy = copied(home, tmp_path)
    (copy / "whole" / "results.jsonl").unlink()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.endswith("evaluating"):
            os.kill(os.getpid(), signal.SIGINT)

    recipe = load(str(copy / "recipe.toml"))
    arguments: dict[str, Any] = {"seeds": 2, "tasks": "retrieval", "variants": {"no heads": ["objective.heads=none"]}}
    stopped = package.study(recipe, copy / "whole", say=say, **arguments)
    assert not stopped.complete and not stopped.failed and said[-1].startswith("Stopping: this evaluation")
    assert len(lines_of(copy / "whole" / "results.jsonl")) == 1
    done = package.study(recipe, copy / "whole", **arguments)
    assert done.complete and len(lines_of(copy / "whole" / "results.jsonl")) == 4
    expected = variants_of(summary_of(home / "whole"), "mean_r10")["no heads"]
    assert variants_of(json.loads(json.dumps(done.summary)), "mean_r10")["no heads"] == expected


def test_a_changed_recipe_or_changed_samples_are_refused_by_name(home: Path, tmp_path: Path) -> None:
    copy = copied(home, tmp_path)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in copy.glob("whole/**/*") if path.name != ".lock")
    for setting, name in (("optim.lr=2e-3", "optim.lr"), ("train.steps=7", "train.steps")):
        error = study(copy, "whole", *VARIANTS, "--seeds", 2, "--set", setting, status=2).stderr
        assert f"'reference' was started with another {name}:" in error
    changed = ["--variant", "no heads: objective.heads=none; objective.weight=3"]
    error = study(copy, "whole", *changed, "--seeds", 2, status=2).stderr
    assert "'no heads' was started with another objective.weight:" in error
    write_shards(copy / "shards", (40, 24), first=50)
    error = study(copy, "whole", *VARIANTS, "--seeds", 3, status=2).stderr
    assert "The training data has changed" in error
    after = sorted((str(path), path.stat().st_mtime_ns) for path in copy.glob("whole/**/*") if path.name != ".lock")
    assert after == before


def test_a_dry_run_says_what_there_is_and_does_nothing(home: Path) -> None:
    result = study(home, "planned", *VARIANTS, "--axis", "optim.lr=1e-3,2e-3", "--product", "--dry-run", "--seeds", 5)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[-1][-3:] == ["20", "0", "0"] and "with 120 steps to go" in result.stdout
    assert [row[-4:] for row in rows if "heads" in row] == [["6", "5", "0", "0"]]
    assert "objective.weight=0.5, optim.lr=2e-3" in result.stdout
    assert not (home / "planned").exists()
    epochs = study(home, "planned", *VARIANTS, "--set", "train.epochs=2", "--dry-run", "--seeds", 1)
    assert "with 24 steps to go" in epochs.stdout  # three runs of 2 · 64 / 16 steps
    known = study(home, "whole", *VARIANTS, *DIVERGES, "--dry-run", "--limit-variants", "no heads", "--seeds", 3)
    assert [line.split()[-3:] for line in known.stdout.splitlines() if "no heads" in line] == [["3", "2", "0"]]


def test_only_some_variants_are_made_and_all_known_ones_are_shown(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    words = ["--variant", "constant: optim.lr=1e-30", *SCRATCH, "--seeds", 1, "--metric", "mean_r10"]
    only = study(tmp_path, "out", *words, "--limit-variants", "constant")
    assert not (tmp_path / "out/runs/reference").exists()
    assert only.stdout.count("higher is better") == 1
    assert variants_of(summary_of(tmp_path / "out"), "mean_r10")["constant"]["difference"]["count"] == 0
    study(tmp_path, "out", *words, "--limit-variants", "reference", "--keep-checkpoints")
    assert len(list((tmp_path / "out/runs/reference/seed-0/checkpoints").glob("step-*"))) == 2
    found = variants_of(summary_of(tmp_path / "out"), "mean_r10")["constant"]
    assert found["difference"]["count"] == 1 and found["difference"]["two_standard_errors"] is None


def test_several_processes_train_a_run(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    words = ["--variant", "w: optim.weight_decay=0.1", "--limit-variants", "w", *SCRATCH, "--seeds", 1, "--nproc", 2]
    study(tmp_path, "out", *words)
    assert json.loads((tmp_path / "out/runs/w/seed-0/run.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_in_processes_started_by_torchrun_a_failure_ends_the_study_and_the_next_one_begins_with_the_others(
    tmp_path: Path,
) -> None:
    write_recipe(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", *SCRIPT]
    words = ["study", "recipe.toml", "--out", "out", "--task", "retrieval", "--seeds", "1", *DIVERGES, *SCRATCH]
    words += ["--variant", "w: optim.weight_decay=0.1"]
    states = []
    for _ in range(2):
        subprocess.run([*launch, *words], cwd=tmp_path, capture_output=True, timeout=300)  # its status is torchrun's
        summary = summary_of(tmp_path / "out")
        states.append({name: one["runs"]["0"] for name, one in summary["variants"].items()})
        assert [one["variant"] for one in summary["failed"]] == ["diverges"]
    assert states[0] == {"reference": "complete", "diverges": "begun", "w": "to do"}
    assert states[1] == {"reference": "complete", "diverges": "begun", "w": "complete"}
    assert variants_of(summary, "mean_r10")["w"]["difference"]["count"] == 1


def test_two_studies_do_not_work_in_one_folder(home: Path) -> None:
    with locked(home / "whole"):
        error = study(home, "whole", *VARIANTS, "--seeds", 2, status=2).stderr
    assert "Another process" in error and error.count("\n") <= 1


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "There is only one variant"),
        (["--axis", "objective.weight"], "not of the form KEY=V1,V2"),
        (["--axis", "objective.weight=1,"], "not of the form KEY=V1,V2"),
        (["--axis", "objective.wieght=1"], "Did you mean 'weight'?"),
        (["--axis", "optim.lr=1", "--axis", "optim.lr=2"], "given twice"),
        (["--axis", "train.seed=4"], "sets train.seed"),
        (["--variant", "objective.heads=none"], "not of the form 'NAME: KEY=VALUE"),
        (["--variant", "…: objective.heads=none"], "no letter or digit"),
        (["--variant", "a: optim.lr=1", "--variant", "a: optim.lr=2"], "names 'a' twice"),
        (["--variant", "a b: optim.lr=1", "--variant", "a-b: optim.lr=2"], "would have one folder"),
        (["--variant", "a: objective.heads=some"], "The variant 'a'"),
        (["--variant", "a: data.eval=shards"], "sets data.eval"),
        ([*VARIANTS, "--reference", "no head"], "There is no variant 'no head'"),
        ([*VARIANTS, "--limit-variants", "no head"], "Did you mean 'no heads'?"),
        ([*VARIANTS, "--task", "retrival"], "'retrieval'"),
        ([*VARIANTS, "--option", "retrieval.rank=1"], "rank"),
        ([*VARIANTS, "--set", "data.eval=[]"], "nothing to evaluate on"),
        ([*VARIANTS, "--best"], "which checkpoint is the best"),
        (["--grid", "three_tower"], "Did you mean 'three_towers'?"),
        ([*VARIANTS, "--seeds", "0"], "seeds"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_are_said_before_anything_is_done(home: Path, words: list[str], expected: str) -> None:
    error = study(home, "mistake", *words, status=2).stderr
    assert expected in error and "Traceback" not in error and not (home / "mistake").exists()


def test_a_grid_file_names_variants_tasks_and_data(home: Path, tmp_path: Path) -> None:
    text = """
    reference = "plain"
    seeds = 1
    task = ["retrieval"]
    data = "../home/unseen"
    options = { languages = ["en"] }
    [variant."no heads"]
    set = ["objective.heads=none", "data.train=../home/shards"]
    [variant.plain]
    set = ["data.train=../home/shards"]
    """
    copied(home, tmp_path)
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "own.toml").write_text(text)
    made = make_variants(home / "recipe.toml", grid=read_grid(tmp_path / "grids" / "own.toml"))
    assert [one.name for one in made.all] == ["plain", "no heads"]
    assert {Path(one.recipe.data.train[0]).resolve() for one in made.all} == {tmp_path / "home" / "shards"}
    command = ["--grid", tmp_path / "grids" / "own.toml", "--set", "data.eval=[]", "--set", "train.steps=1"]
    distill("study", "recipe.toml", "--out", tmp_path / "out", *command, cwd=home)
    summary = summary_of(tmp_path / "out")
    assert summary["seeds"] == [0] and summary["reference"] == "plain"
    record = lines_of(tmp_path / "out" / "results.jsonl")[0]
    assert record["results"][0]["texts"] == 24 and record["options"]["retrieval"]["languages"] == ["en"]
    for wrong, expected in (
        ("sedes = 1", "unknown key 'sedes'"),
        ("seeds = -1", "'seeds'"),
        ("[variant.a]\nsets = []", "unknown key 'variant.a.sets'"),
        ("x", "not valid TOML"),
    ):
        (tmp_path / "wrong.toml").write_text(wrong)
        with pytest.raises(package.UserError, match=expected):
            read_grid(tmp_path / "wrong.toml")


def test_the_grid_on_the_page_is_one(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / ".github" / "docs" / "studies.md"
    (text,) = re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "grid.toml").write_text(text)
    made = make_variants("three_towers", ["data.train=x"], grid=read_grid(tmp_path / "grid.toml"))
    assert len(made.all) > 2 and not made.remarks


@pytest.mark.parametrize("recipe", ["tiny", "three_towers"])
def test_every_variant_of_the_packaged_grids_resolves(recipe: str) -> None:
    assert "three_towers" in packaged_grids()
    for name in packaged_grids():
        made = make_variants(recipe, ["data.train=x", "data.eval=y"], grid=read_grid(name))
        assert not made.remarks, "two variants are the same training"
        assert len({str(one.content) for one in made.all}) == len(made.all) > 1


def test_the_packaged_grid_has_the_usual_methods_and_the_papers_ablations() -> None:
    made = make_variants("tiny", ["data.train=x"], grid=read_grid("three_towers"))
    by_name = {one.name: one for one in made.all}
    assert made.reference.name == "3T" and made.reference.recipe == load("tiny", ["data.train=x"])
    contrastive = 'objective={name="contrastive"}'
    methods = {
        "3T": [],
        "from scratch": ["teacher=[]", contrastive],
        "LiT": [contrastive, 'student.image={arch="teacher"}', "student.width=1280"],
    }
    for name, overrides in methods.items():
        assert by_name[name].recipe == load("tiny", ["data.train=x", *overrides])
    terms = {
        name: set(one.resolved.objective.terms)
        for name, one in by_name.items()
        if name.startswith("no ") and hasattr(one.resolved.objective, "terms") and name != "no heads"
    }
    assert terms == {"no f-g": {"fh", "gh"}, "no fh-hf": {"fg", "gh"}, "no gh-hg": {"fg", "fh"}}
    heads = {getattr(one.resolved.objective, "heads", None) for one in made.all}
    assert heads >= {"third", "main", "independent", "none"}
    assert by_name["from the teacher's weights"].recipe.student.image.init == "teacher"
    assert len(by_name["two teachers"].resolved.teachers) == 2
    assert by_name["mismatched teacher"].resolved.teachers[0].name == "packaged/resnet50_thin"
    weights = [one.resolved.objective.weight for one in made.all if one.recipe.objective.name == "l2"]
    assert weights == [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0]


finite = st.floats(-1e3, 1e3, allow_nan=False)
values = st.dictionaries(st.integers(0, 9), st.one_of(finite, st.none(), st.just(math.nan)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(values, values)
def test_comparing_is_a_paired_comparison_by_seed(reference: dict[int, Any], other: dict[int, Any]) -> None:
    found = compare({"reference": reference, "other": other}, "reference")
    good = [{seed: v for seed, v in own.items() if v is not None and math.isfinite(v)} for own in (reference, other)]
    both = sorted(good[0].keys() & good[1].keys())
    paired = np.array([good[1][seed] - good[0][seed] for seed in both])
    spread = found["other"].difference
    assert spread.count == len(both) and found["other"].values == good[1] and found["reference"].difference.count == 0
    if not both:
        assert spread.mean is None
        return
    assert spread.mean == pytest.approx(paired.mean(), abs=1e-9)
    if len(both) == 1:
        assert spread.std is None and spread.two_standard_errors is None and not spread.excludes_zero
        return
    low, high = paired.mean() + np.array([-2, 2]) * scipy.stats.sem(paired)
    assert spread.std == pytest.approx(paired.std(ddof=1), rel=1e-6, abs=1e-9)
    if paired.std(ddof=1) > 1e-6 and min(abs(low), abs(high)) > 1e-6:
        assert spread.excludes_zero == (low > 0 or high < 0)


def test_equal_differences_are_no_evidence() -> None:
    found = compare({"a": {0: 0.5, 1: 0.25}, "b": {0: 0.75, 1: 0.5}}, "a")["b"].difference
    assert found.mean == 0.25 and found.std == 0 and not found.excludes_zero


def test_the_table_says_how_often_chance_exceeds_two_standard_errors() -> None:
    summary = {"recipe": "r", "reference": "a", "seeds": [0, 1], "variants": {}, "results": [], "failed": []}
    text = as_markdown(summary | {"remarks": []})
    for seeds, words in ((2, "30 of 100 cases with 2 seeds"), (3, "18 with 3"), (5, "12 with 5"), (10, "8 with 10")):
        assert words in text and round(200 * scipy.stats.t.sf(2, seeds - 1)) == int(words.split()[0])
    assert round(200 * scipy.stats.norm.sf(2)) == 5 and "5 with many" in text
    assert "Nothing has been measured yet" in as_text(summary | {"remarks": []})


def test_values_are_split_where_no_bracket_or_quotation_mark_is_open() -> None:
    assert split('a,"b,c",[d,e],{f=[g,h],i=1}', ",") == ["a", '"b,c"', "[d,e]", "{f=[g,h],i=1}"]
    axes = axes_from(['objective.terms=["fg","fh"],["fg"]', "optim.lr=1e-3,2e-3"])
    assert axes == {"objective.terms": ['["fg","fh"]', '["fg"]'], "optim.lr": ["1e-3", "2e-3"]}
    assert len(settings_of_axes(axes, product=False)) == 4 and len(settings_of_axes(axes, product=True)) == 4
    assert settings_of_axes({"a": [1, 2], "b": [3]}, product=True) == {
        "a=1, b=3": ["a=1", "b=3"],
        "a=2, b=3": ["a=2", "b=3"],
    }
    for value in (0.5, True, [1, "x"], {"arch": "a", "b": [1.5, {"c d": False}]}):
        assert tomllib.loads(f"x = {as_toml(value)}")["x"] == value


def test_half_a_line_of_a_killed_process_costs_that_line_only(tmp_path: Path) -> None:
    record = {"run": "r", "checkpoint": "c", "task": "t", "options": {}, "samples": "s"}
    path = tmp_path / "results.jsonl"
    Results(path).add(record | {"results": [1]})
    with path.open("a") as file:
        file.write('{"run": "r", "chec')
    Results(path).add(record | {"task": "u", "results": [2]})
    Results(path).add({"run": "q", "failed": "no room"})
    found = Results(path)
    assert [one["results"] for one in found.found.values()] == [[1], [2]] and found.failures == {"q": "no room"}
    found.add(record | {"run": "q", "results": []})
    assert not Results(path).failures, "a later attempt was successful"
    found.add({"run": "q", "failed": "no room"})
    found.add({"run": "q", "failed": ""})
    assert not found.failures and not Results(path).failures
