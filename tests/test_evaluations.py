"""Evaluations by name: their options, and how they read captions for an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import RECIPE, SCRATCH, distill, write_shards

import distill as package
from distill.errors import UserError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations")
    write_shards(folder / "shards")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=folder / "shards"))
    words = ("--set", "train.steps=1", "--set", "data.train=shards/train-000000.tar")
    words += ("--set", "data.eval=shards/train-000001.tar", *SCRATCH)
    distill("train", "recipe.toml", "--out", "run", *words, cwd=folder)
    distill("export", "run", "--out", "export", cwd=folder)
    return folder


def edited(home: Path, name: str, **values: object) -> Path:
    """A copy of the export whose recipe's [data] has other values; None removes a key."""
    config = json.loads((home / "export" / "config.json").read_text())
    data = config["provenance"]["recipe"]["data"] | values
    config["provenance"]["recipe"]["data"] = {key: value for key, value in data.items() if value is not None}
    (home / name).mkdir()
    for file in (home / "export").iterdir():
        (home / name / file.name).write_bytes(file.read_bytes())
    del config["files"], config["sha256"]  # as of a version that wrote no hashes
    (home / name / "config.json").write_text(json.dumps(config))
    return home / name


def test_an_export_whose_recipe_has_an_unknown_data_key_is_evaluated_like_any_other(home: Path) -> None:
    """Such as one that a later version knows."""
    shards = str(home / "shards")
    expected = package.evaluate(home / "export", "retrieval", data=shards)
    assert package.evaluate(edited(home, "later", of_a_later_version=3), "retrieval", data=shards) == expected
    words = ("evaluate", home / "later", "--task", "retrieval", "--data", shards)
    found = json.loads(distill(*words, "--json", "-").stdout)
    assert found["results"] == [expected] and found["not_made"] == []


def test_an_export_that_does_not_say_how_captions_are_read_is_the_users_error(home: Path) -> None:
    for name, values, said in (
        ("wrong", {"caption_keys": 7}, "provenance.recipe.data.caption_keys"),
        ("missing", {"workers": None}, "provenance.recipe.data.workers"),
    ):
        words = ("evaluate", edited(home, name, **values), "--task", "retrieval", "--data", home / "shards")
        error = distill(*words, status=2).stderr
        assert said in error and error.count("\n") == 1


def test_a_run_is_evaluated_on_its_own_data_unless_others_are_named(home: Path) -> None:
    assert package.evaluate(home / "run", "retrieval")["images"] == 24
    assert package.evaluate(home / "run", "retrieval", data=str(home / "shards"))["images"] == 64


@pytest.mark.parametrize(
    "options, said",
    [
        ({"language": "en"}, "has no option 'language'. Did you mean 'languages'?"),
        ({"languages": 3}, "does not accept its option 'languages'"),
        ({"languages": "fr"}, "No caption says that its language is fr."),
        ({"data": "nowhere.tar"}, "The shard nowhere.tar does not exist."),
    ],
)
def test_a_wrong_option_is_named_before_the_model_is_measured(
    home: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError) as refused:
        package.evaluate(home / "run", "retrieval", **options)
    assert said in str(refused.value)


def test_an_option_given_in_two_ways_is_refused(home: Path) -> None:
    words = ("evaluate", "run", "--task", "retrieval", "--data", "shards", "--set", "data=shards")
    assert "Both --data and --set data are given." in distill(*words, cwd=home, status=2).stderr
