"""Recipes as TOML, and ``distill recipe``."""

from __future__ import annotations

import datetime
import math
import tomllib

import pytest

from distill.config import Recipe
from distill.errors import UserError
from distill.recipe import dump, parse


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
