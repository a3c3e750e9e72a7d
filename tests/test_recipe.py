"""Recipes as TOML, and ``distill recipe``."""

from __future__ import annotations

import datetime
import json
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from conftest import distill
from pydantic import BaseModel

import losses
from distill import plugins
from distill.config import Recipe
from distill.errors import UserError
from distill.lookup import OPTIMIZERS, resolve
from distill.recipe import dump, load, packaged, parse, purpose
from distill.recipe_reference import as_toml, meanings, reference
from students import text_tower_class, texts

SHARDS = "data.train=a.tar"


def recipe_with(**options: object) -> Recipe:
    """The smallest recipe, with options of the image tower."""
    tree = {"data": {"train": ["a.tar"]}, "student": {"image": {"arch": "vit_tiny_patch16_224", **options}}}
    return parse(tree)


@pytest.mark.parametrize(
    "options",
    [
        {"text": "\x7f \x00 \t \n \" ' \\ é 𝄞"},
        {"number": math.inf, "negative": -math.inf, "small": 1e-300, "large": 2**70},
        {"table": {}, "list": [], "tables": [{}, {"a": 1}]},
        {"a key with spaces": 1, "a.b": 2, 'a"b': 3, "\x7f": 4, "é": 5, "": 6},
        {"nested": {"a": {"b c": [[1, 2], [], [{"d": True}]]}}},
        {"date": datetime.date(2020, 1, 2), "time": datetime.time(3, 4, 5)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_written_is_read_back(options: dict[str, object]) -> None:
    recipe = recipe_with(**options)
    assert recipe.student.image.options == options
    assert parse(tomllib.loads(dump(recipe))) == recipe


@pytest.mark.parametrize("value", [None, math.nan, [1, None], {"a": [math.nan]}])
def test_options_that_could_not_be_read_back_are_refused(value: object) -> None:
    with pytest.raises(UserError, match="the option 'depth' contains null, which TOML does not have, or not a number"):
        recipe_with(depth=value)


def tables_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model of a recipe and those of the tables in it."""
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from tables_of(kind)


MODELS = [
    *dict.fromkeys(tables_of(Recipe)),
    *(losses.objective_class(name) for name in losses.names()),
    *(text_tower_class(name).Options for name in texts.found()),
    *(point.load() for point in plugins.found(*OPTIMIZERS).values()),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_of_every_table_is_documented(model: type[BaseModel]) -> None:
    documented = meanings(model)
    for name, field in model.model_fields.items():
        assert len(documented.get(name, "")) > 10, f"{model.__name__} does not say what {name} means"
        for value in words_of(field.annotation):
            assert f'"{value}"' in documented[name], f"{model.__name__} does not say what {name} = {value} means"
    assert model.__doc__


def words_of(kind: Any) -> list[str]:
    """The words that a type allows, also in a tuple."""
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for inner in get_args(kind) for word in words_of(inner)]


def test_sections_of_attributes_are_read() -> None:
    class Base(BaseModel):
        """A base.

        Attributes:
            a: what
                it is.
            b, c: ``both``.

        More text: not a key.
        """

        a: int = 0
        b: int = 0
        c: int = 0

    class Derived(Base):
        """Derived.

        Attributes:
            a: something else.
            d: of no field.
        """

    assert meanings(Base) == {"a": "what it is.", "b": "`both`.", "c": "`both`."}
    assert meanings(Derived) == meanings(Base) | {"a": "something else."}


@pytest.mark.parametrize("name", packaged())
def test_what_is_shown_of_a_packaged_recipe_is_that_recipe(name: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.toml"
    file.write_text(as_toml(name))
    assert load(str(file), [SHARDS]) == load(name, [SHARDS])
    assert purpose(file) == purpose(packaged()[name]) != ""
    with pytest.raises(UserError, match="does not say 'data.train'"):
        load(str(file))


@pytest.mark.parametrize("name", packaged())
def test_the_defaults_that_are_shown_are_those_that_hold(name: str, tmp_path: Path) -> None:
    """Setting every key to what is shown changes nothing."""
    text = "\n".join(line for line in as_toml(name).splitlines() if not re.fullmatch(r"#\S+ =  # .*", line))
    # Those that are not set would have no name, and no task.
    text = re.sub(r"\n#\[\[(teacher|evaluate)]](.|\n)*?(?=\n\n)", "", text)
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"^#(?=\S)", "", text, flags=re.M))
    shown, expected = (resolve(load(source, [SHARDS])) for source in (str(file), name))
    assert shown.objective == expected.objective and shown.text_options == expected.text_options
    assert shown.optimizer == expected.optimizer
    assert load(str(file), [SHARDS]).objective.options.keys() == type(expected.objective).model_fields.keys()
    for table in ("data", "teacher", "optim", "train", "zero", "checkpoint", "evaluate", "log"):
        assert getattr(shown.recipe, table) == getattr(expected.recipe, table)
    assert shown.recipe.student.image == expected.recipe.student.image


def test_tables_that_a_recipe_does_not_have_are_shown_with_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text('[data]\ntrain = "/a.tar"\n[student]\ntext = false\n[objective]\nname = "contrastive"\n')
    (tmp_path / "shown.toml").write_text(as_toml(str(file)))
    assert load(str(tmp_path / "shown.toml")) == load(str(file))
    keys = {f"{table.path}.{key.name}": key for table in reference(str(file)) for key in table.keys}
    assert (keys["train.epochs"].value, keys["train.epochs"].is_set) == (30, False)
    assert keys["student.image.arch"].default == "vit_tiny_patch16_224" and keys["teacher.0.name"].value is None
    assert keys["student.text.arch"].value == "none" and "student.text.depth" not in keys


def test_the_command_lists_shows_and_checks(tmp_path: Path) -> None:
    listed = json.loads(distill("recipe", "list", "--json").stdout)
    assert [one["name"] for one in listed] == list(packaged()) and all(one["purpose"] for one in listed)
    assert "LiT (arXiv 2111.07991)" in distill("recipe", "list").stdout

    keys = {one["key"]: one for one in json.loads(distill("recipe", "show", "lit", "--json").stdout)}
    assert keys["student.width"] | {"meaning": ""} == {
        "key": "student.width",
        "value": 1280,
        "default": 512,
        "meaning": "",
    }
    assert keys["data.train"]["value"] is None and keys["optim.betas"]["default"] == [0.9, 0.99]
    (tmp_path / "shown.toml").write_text(distill("recipe", "show", "lit").stdout)

    said = distill("recipe", "check", "shown.toml", "--set", SHARDS, cwd=tmp_path).stdout
    for words in (
        "contrastive",
        "lite0: 1280 wide, cached beside the shards",
        "6-layer Transformer",
        "epochs 30",
        "batch_size 1024",
    ):
        assert words in said
    online = ("--set", "teacher.0.cache=none", "--set", SHARDS, "--json")
    found = json.loads(distill("recipe", "check", "three_towers", *online).stdout)
    assert found["teachers"] == [
        {"name": "packaged/efficientnet_lite0", "width": 1280, "mode": "online", "cache": None}
    ]
    kept = ("--set", "teacher.0.cache=kept", "--set", SHARDS)
    said = distill("recipe", "check", "three_towers", *kept, cwd=tmp_path).stdout
    assert f"1280 wide, cached in {tmp_path / 'kept'}" in said
    assert "teachers       none" in distill("recipe", "check", "scratch", "--set", SHARDS).stdout


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_file_that_is_no_text_is_refused(command: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"# \xff\n[data]\n")
    said = distill("recipe", command, "recipe.toml", cwd=tmp_path, status=2).stderr
    assert said.startswith("Error: recipe.toml is not valid TOML") and "Traceback" not in said


def test_each_tower_says_what_its_own_architectures_are() -> None:
    keys = {f"{table.path}.{key.name}": key.meaning for table in reference("three_towers") for key in table.keys}
    assert "timm" in keys["student.image.arch"] and "students/texts" not in keys["student.image.arch"]
    assert "students/texts" in keys["student.text.arch"] and "timm" not in keys["student.text.arch"]
    assert '"teacher"' in keys["student.image.init"] and "teacher" not in keys["student.text.init"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("check", "lit"), "does not say 'data.train'"),
        (("check", "lti", "--set", SHARDS), "There is no recipe 'lti'. Did you mean 'lit'?"),
        (("check", "lit", "--set", SHARDS, "--set", "student.width=3"), "Set student.width = 1280"),
        (("check", "lit", "--set", SHARDS, "--set", "data.colour=3"), "unknown key 'data.colour'"),
        (("show", "nothing"), "There is no recipe 'nothing'"),
    ],
)
def test_the_command_refuses_with_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    said = distill("recipe", *words, status=2).stderr
    assert sentence in said and said.startswith("Error: ") and "Traceback" not in said


@pytest.mark.parametrize(
    "setting, remedy",
    [
        ("lr=1", "write optim.lr."),
        ("train.lr=1", "write optim.lr."),
        ("batch_size=2", "write train.batch_size."),
        ("optim.epochs=2", "write train.epochs."),
        ("objective.weight_decay=2", "write optim.weight_decay."),
        ("student.vocab=300", "write student.tokenizer.vocab."),
        ("views=3", "write teacher.N.views."),
        ("learning_rate=1", "Write optim.lr"),
        ("optim.num-epochs=1", "Write train.epochs"),
        ("objective.nam=l2", "Did you mean 'name'?"),
        ("objective.name=siglip", 'objective.name = "contrastive" and objective.pair = "sigmoid"'),
        ("objective.name=CLIP", 'objective.name = "contrastive"'),
        ("objective.name=lit", 'student.image = { arch = "teacher" }'),
        ("objective.name=3T", 'objective.name = "three_towers"'),
        ("objective.name=mse", 'objective.name = "l2"'),
        ("train.precision=fp16", 'train.precision = "bf16"'),
        ("train.precision=amp_bfloat16", 'train.precision = "bf16"'),
        ("optim.name=adam", "Did you mean 'adamw'?"),
    ],
)
def test_keys_in_the_wrong_table_and_names_of_other_tools_are_answered_with_what_to_write(
    setting: str, remedy: str
) -> None:
    with pytest.raises(UserError) as error:
        resolve(load("three_towers", ["data.train=x", setting]))
    assert remedy in str(error.value)


def test_every_answer_to_a_name_of_another_tool_is_a_valid_recipe() -> None:
    from distill.other_names import KEYS, VALUES, places_of

    for meant in KEYS.values():
        if meant not in ("[[teacher]]", "student.text", "student.image", "student.text.context"):
            assert meant in places_of(meant.rsplit(".", 1)[-1], Recipe), meant
    for values in VALUES.values():
        for meant in values.values():
            key, name = re.match(r'(\S+) = "(\w+)"', meant).groups()
            load("three_towers", ["data.train=x", f"{key}={name}"])
            assert key in VALUES
