"""Another installed package adds one plugin of every kind through entry points, without a change to our code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE, encoded, losses_of, picture, write_shards
from safetensors.torch import load_file

import distill
from distill import plugins
from distill.cli import launch_options
from distill.data.shards import Shards
from distill.errors import UserError
from distill.evals.layout import LAYOUTS, Layout
from distill.evals.subject import SUBJECTS, Subject
from distill.lookup import find_evaluation, resolve
from distill.recipe import load
from distill.training.observing import OBSERVERS, Observer

SCRIPT = str(Path(sys.executable).with_name("distill"))
SETTINGS = [
    "teacher.0.name=extra/lite0",
    'student.text={arch="convolutional", context=24, kernel=5}',
    "objective.name=cross_correlation",
    "objective.strength=2.0",
    "optim.name=momentum_or_rms",
    "optim.decay=0.8",
    "optim.lr=0.01",
    "zero.stage=1",
]


class Installed:
    """A working directory with shards, a recipe, and the plugin package installed in a subfolder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        shutil.copytree(Path(__file__).parent / "plugin_package", home / "source")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "--target", str(home / "installed"), str(home / "source")], check=True)
        write_shards(home / "shards")
        (home / "recipe.toml").write_text(RECIPE.format(shards=home / "shards"))

    def distill(self, *words: object, status: int = 0) -> str:
        """Run the command; return its standard output, or its standard error if ``status`` is not 0."""
        environment = os.environ | {"PYTHONPATH": str(self.home / "installed")}
        command = [SCRIPT, *map(str, words)]
        done = subprocess.run(command, cwd=self.home, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The package installed, and two runs with its teacher, text tower, objective and optimiser: one of a single
    process, and one of two processes started by its launcher."""
    installed = Installed(tmp_path_factory.mktemp("plugins"))
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    installed.distill("train", "recipe.toml", "--out", "one", *words)
    installed.distill("train", "recipe.toml", "--out", "two", *words, "--launcher", "plain", "--launch", "count=2")
    return installed


def test_two_processes_of_its_launcher_train_the_same_model_as_one(package: Installed) -> None:
    """Its objective compares samples across the batch in the teacher's space: every process needs the whole batch."""
    one, two = (losses_of(package.home / name) for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert json.loads((package.home / "two" / "run.json").read_text())["processes"] == 2
    lines = (package.home / "two" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["correlation"] > 0 for line in lines) and one[-1] < one[0]


def test_its_source_is_packed(package: Installed) -> None:
    with zipfile.ZipFile(package.home / "drawings.zip", "w") as archive:
        for name in ("a_red_circle", "a_blue_cross"):
            _, colour, shape = name.split("_")
            archive.writestr(f"{name}.png", encoded(picture(shape, colour, 0)))
    printed = package.distill("data", "pack", "drawings.zip", "--out", "packed")
    assert printed == "packed/train-000000.tar\n"
    shards = Shards.open([str(package.home / "packed")])
    assert {shards.read(i).txt for i in range(len(shards))} == {b"a red circle", b"a blue cross"}
    shards.close()


def test_its_optimisers_state_differs_by_parameter_and_is_in_checkpoints(package: Installed) -> None:
    state = load_file(package.home / "two" / "checkpoints" / "step-00000006" / "state.safetensors")
    keys = {name.removeprefix("optimizer/") for name in state if name.startswith("optimizer/")}
    assert {"text.head.weight/momentum", "text.head.bias/squares", "log_scale/squares"} <= keys
    assert not {"text.head.weight/squares", "text.bytes.weight/momentum"} & keys


def test_its_runs_resume_with_another_number_of_processes(package: Installed) -> None:
    shutil.copytree(package.home / "two", package.home / "resumed")
    (package.home / "resumed" / "checkpoints" / "latest").write_text("step-00000003")
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    package.distill("train", "recipe.toml", "--out", "resumed", "--resume", *words)
    np.testing.assert_allclose(losses_of(package.home / "resumed"), losses_of(package.home / "two"), rtol=1e-3)


def test_its_text_tower_and_tokenizer_are_exported_and_documented(package: Installed) -> None:
    package.distill("export", "one", "--out", "export")
    assert (package.home / "export" / "bytes.txt").read_bytes() == b"bytes\n"
    card = (package.home / "export" / "README.md").read_text()
    assert "| text tower | convolution of 5 bytes, 24 tokens, " in card
    assert "`bytes.txt` is a note that bytes are tokens" in card
    (package.home / "queries.txt").write_text("a red circle\n")
    package.distill("embed", "export", "--texts", "queries.txt", "--out", "queries.safetensors")
    assert load_file(package.home / "queries.safetensors")["embeddings"].shape == (1, 32)


def test_its_export_format_is_written(package: Installed) -> None:
    package.distill("export", "one", "--out", "weights", "--format", "npz")
    weights = np.load(package.home / "weights" / "weights.npz")
    assert {name.split(".")[0] for name in weights} == {"image", "text"}
    assert "no export format 'npy'" in package.distill("export", "one", "--out", "x", "--format", "npy", status=2)


def test_its_report_format_is_written(package: Installed) -> None:
    words = ("report", "one", "two", "--data", "shards/train-000001.tar", "--format", "plain_numbers")
    assert package.distill(*words, "--out", "runs.txt") == "The report is in runs.txt.\n"
    one, two = map(json.loads, (package.home / "runs.txt").read_text().splitlines())
    words = ("evaluate", "two", "--task", "retrieval", "--data", "shards/train-000001.tar", "--json", "-")
    (found,) = json.loads(package.distill(*words))["results"]
    assert (one["run"], two["run"]) == ("one", "two") and two["retrieval"] == found["metrics"]


def test_its_evaluation_has_its_own_options_and_data(package: Installed) -> None:
    words = ("evaluate", "one", "--task", "last_word", "--data", "shards/train-000001.tar", "--json", "-")
    found = json.loads(package.distill(*words, "--set", "k=3", "--train", "shards/train-000000.tar"))["results"][0]
    assert found["details"] == {"k": 3} and 0 < found["metrics"]["accuracy"] <= 1
    for wrong, message in (
        (("--set", "trian=x"), "The evaluation 'last_word' has no option 'trian'. Did you mean 'train'?"),
        (("--set", "k=0"), "The evaluation 'last_word' does not accept its option 'k': "),
        (("--train", "nowhere.tar"), "The shard nowhere.tar does not exist."),
    ):
        assert message in package.distill(*words, *wrong, status=2)


def test_its_subject_and_its_layout_are_evaluated(package: Installed) -> None:
    words = ("evaluate", "colours", "--data", "drawings:12", "--task", "knn", "--set", "k=1", "--json", "-")
    (found,) = json.loads(package.distill(*words))["results"]
    assert found["metrics"]["accuracy"] == 0.75  # black has no direction, so it is told from nothing
    words = ("evaluate", "one", "--data", "drawings:12", "--task", "retrieval", "--json", "-")
    (found,) = json.loads(package.distill(*words))["results"]
    assert (found["images"], found["texts"]) == (12, 12)


def test_its_logger_receives_every_step_of_a_resumed_run(package: Installed) -> None:
    shutil.copytree(package.home / "one", package.home / "logged")
    (package.home / "logged" / "checkpoints" / "latest").write_text("step-00000003")
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    package.distill("train", "recipe.toml", "--out", "logged", "--resume", *words, "--set", 'log.to=["csv"]')
    lines = [line.split(",") for line in (package.home / "logged" / "loss.csv").read_text().splitlines()]
    assert [int(step) for step, _ in lines] == [4, 5, 6]
    np.testing.assert_allclose([float(loss) for _, loss in lines], losses_of(package.home / "one")[3:], rtol=1e-3)


def resolved_with(name: str, setting: str) -> object:
    """A recipe resolved with one setting in which NAME is replaced."""
    return resolve(load("three_towers", ["data.train=x", setting.replace("NAME", name)]))


LOADERS: dict[str, Callable[[str], object]] = {
    "objectives": partial(resolved_with, setting="objective.name=NAME"),
    "text_towers": partial(resolved_with, setting='student.text={arch="NAME"}'),
    "optimizers": partial(resolved_with, setting="optim.name=NAME"),
    "teachers": partial(resolved_with, setting="teacher.0.name=mine/NAME"),
    "launchers": partial(launch_options.build, options={}),
    "evaluations": partial(find_evaluation, options={}),
    "export_formats": lambda name: distill.export("no-run", "out", name),
    "subjects": lambda name: plugins.load("subject", name, *SUBJECTS, plugins.is_subclass(Subject)),
    "evaluation_layouts": lambda name: plugins.load("layout", name, *LAYOUTS, plugins.is_subclass(Layout)),
    "observers": lambda name: plugins.load("observer", name, *OBSERVERS, plugins.is_subclass(Observer)),
    "report_formats": lambda name: distill.report("no-run", "out", name),
}


@pytest.mark.parametrize("group", LOADERS)
@pytest.mark.parametrize(
    "name, value", [("absent", "nowhere:X"), ("fails", "fails:X"), ("lacks", "empty:X"), ("wrong", "empty:W")]
)
def test_a_plugin_that_cannot_be_loaded_is_an_error_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str, value: str
) -> None:
    """Its module is missing, raises, lacks the name, or has something else under it."""
    (tmp_path / "fails.py").write_text("raise RuntimeError('no such device')\n")
    (tmp_path / "empty.py").write_text("W = 5\n")
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[distill.{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"(Repair|Correct)( or uninstall)? (its|that) package\.$"):
        LOADERS[group](name)


@pytest.mark.parametrize(
    "words, listed",
    [
        (("teachers", "list", "extra"), "extra/lite0"),
        (("evaluate", "--help"), "few_shot, fidelity, knn, last_word, linear"),
        (("export", "--help"), "Formats: distill, npz, onnx, open_clip, timm, torch."),
        (("report", "--help"), "Formats: html, md, plain_numbers"),
        (("recipe", "parts"), "plain                So many processes on this machine."),
        (("recipe", "parts"), "convolutional        One convolution, the maximum over the text, and a linear layer."),
    ],
)
def test_listings_include_its_plugins(package: Installed, words: tuple[str, ...], listed: str) -> None:
    assert listed in package.distill(*words)
