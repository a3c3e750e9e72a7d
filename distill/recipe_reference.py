"""Every key that a recipe can have, with its value, its default and its meaning, as TOML.

The meanings are those of the "Attributes:" sections in the docstrings of the pydantic models.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tomli_w
from pydantic import BaseModel

from distill.config import Recipe, TeacherTable
from distill.lookup import find_objective, find_optimizer, find_text_tower
from distill.recipe import find, parse, purpose, read_tree
from distill.run_tables import EvaluateTable
from distill.tables import Open

TIMM_OPTION = "a keyword argument of timm.create_model."
OPTIONS = {"evaluate": "an option of the task.", "log": "options of a logger."}
HOW_TO_READ = (
    "Every key is here. One that begins with # is not set: it has the default that is shown. "
    "To set it, remove its #, and that of its table's header."
)
WIDTH = 110  # columns of a comment
LISTS: dict[str, type[BaseModel]] = {"teacher": TeacherTable, "evaluate": EvaluateTable}


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    Attributes:
        name: of the key in its table.
        value: the value that holds; None if there is none.
        default: None if there is none.
        meaning: what it is for.
        is_set: whether the recipe sets it.
        required: whether the recipe must set it.
    """

    name: str
    value: Any
    default: Any
    meaning: str
    is_set: bool
    required: bool


@dataclass(frozen=True)
class TableKeys:
    """A table of a recipe with all its keys.

    Attributes:
        path: dotted, with the numbers of lists, such as "teacher.0".
        header: as in TOML, such as "[[teacher]]".
        meaning: what it is for.
        is_set: whether the recipe has this table.
        keys: in the order of the model; the options of what the table names come last.
    """

    path: str
    header: str
    meaning: str
    is_set: bool
    keys: tuple[Key, ...]


def reference(source: str) -> list[TableKeys]:
    """All tables of a recipe, which does not have to set ``data.train``, as packaged recipes do not.

    Args:
        source: a TOML file, or the name of a packaged recipe.

    Raises:
        UserError: if there is no such recipe, or it is not valid.
    """
    tree = read_tree(find(source))
    data = tree.setdefault("data", {})
    without_shards = isinstance(data, dict) and "train" not in data
    if without_shards:
        data["train"] = []
    recipe = parse(tree)
    if without_shards:
        recipe.data.model_fields_set.discard("train")
    options = {
        "objective": find_objective(recipe),
        "optim": find_optimizer(recipe),
        "student.text": find_text_tower(recipe)[1],
    }
    return list(tables(recipe, options))


def tables(recipe: Recipe, options: dict[str, Any]) -> Iterator[TableKeys]:
    """All tables of a recipe.

    Args:
        recipe: the recipe.
        options: by the path of a table, the model of the options of what the table names, or None.
    """
    for name in type(recipe).model_fields:
        value, is_set = getattr(recipe, name), name in recipe.model_fields_set
        if isinstance(value, BaseModel):
            yield from table(name, f"[{name}]", value, is_set, options)
        else:  # a list of tables; where it is empty, its keys are shown all the same
            for number, one in enumerate(value or [LISTS[name].model_construct()]):
                yield from table(f"{name}.{number}", f"[[{name}]]", one, bool(value), options)


def table(path: str, header: str, model: BaseModel, is_set: bool, options: dict[str, Any]) -> Iterator[TableKeys]:
    """A table, and the tables in it."""
    inner = {name: value for name, value in model if isinstance(value, BaseModel)}
    keys, meaning = list(keys_of(model, is_set)), summary(type(model))
    extra = options.get(path)
    if extra is not None:
        keys += keys_of(extra, is_set)
        meaning += f" {named(model)}: {summary(type(extra))}"
    elif isinstance(model, Open):
        meaning_of_option = OPTIONS.get(path.split(".")[0], TIMM_OPTION)
        keys += [Key(name, value, None, meaning_of_option, True, False) for name, value in model.options.items()]
    yield TableKeys(path, header, meaning, is_set, tuple(keys))
    for name, value in inner.items():
        yield from table(f"{path}.{name}", f"[{path}.{name}]", value, name in model.model_fields_set, options)


def named(model: BaseModel) -> str:
    """What a table names: an objective, an optimiser or an architecture."""
    return str(getattr(model, "name", None) or getattr(model, "arch", ""))


def keys_of(model: BaseModel, table_is_set: bool) -> Iterator[Key]:
    """The keys of a table that are no tables themselves."""
    documented = meanings(type(model))
    for name, field in type(model).model_fields.items():
        required, is_set = field.is_required(), table_is_set and name in model.model_fields_set
        value = getattr(model, name, None) if is_set or not required or not table_is_set else None
        if isinstance(value, BaseModel):
            continue
        # A table that a recipe does not have may have other defaults than one that it has: student.image.arch.
        default = value if not table_is_set else None if required else field.get_default(call_default_factory=True)
        yield Key(name, value, default, documented.get(name, ""), is_set, required)


def summary(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring, as one line."""
    return plain((inspect.getdoc(model) or "").split("\n\n")[0])


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The meaning of each field of a model: from the "Attributes:" sections of it and of its base classes."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        section = re.search(r"^Attributes:\n((?:[ ]+.*\n|\n)*)", inspect.cleandoc(kind.__doc__ or "") + "\n", re.M)
        for entry in re.split(r"\n(?=\w)", textwrap.dedent(section[1]).strip()) if section else ():
            names, _, text = entry.partition(":")
            found |= dict.fromkeys(re.split(r",\s*", names), plain(text))
    return {name: text for name, text in found.items() if name in model.model_fields}


def plain(text: str) -> str:
    """A piece of a docstring as one line, without the marks of reStructuredText."""
    return " ".join(text.split()).replace("``", "`")


def as_toml(source: str) -> str:
    """A recipe as TOML with every key and its meaning; what the recipe does not set is commented out."""
    found = reference(source)  # first, so that a file that is no recipe is refused before anything else reads it
    parts = [comment(purpose(find(source))), comment(HOW_TO_READ)]
    for one in found:
        lines = [comment(one.meaning), one.header if one.is_set else f"#{one.header}"]
        for key in one.keys:
            lines += [comment(key.meaning), line(key)]
        parts.append("\n".join(filter(None, lines)))
    return "\n\n".join(filter(None, parts)) + "\n"


def comment(text: str) -> str:
    """Comment lines of a text; none of an empty one."""
    return textwrap.fill(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def line(key: Key) -> str:
    """A key and its value as one line of TOML, or as a comment if it is not set."""
    if key.value is None:
        return f"#{assignment(key.name, '')} # {'must be set' if key.required else 'not set'}"
    return f"{'' if key.is_set else '#'}{assignment(key.name, one_line(key.value))}"


def assignment(key: str, value: str) -> str:
    """``key = value``; the key is quoted where it must be."""
    return tomli_w.dumps({key: 0}).removesuffix("0\n") + value


def one_line(value: Any) -> str:
    """A value as TOML in one line, which can be commented out by one character."""
    if isinstance(value, dict):
        return "{ " + ", ".join(assignment(k, one_line(v)) for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(one_line(v) for v in value) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").removesuffix("\n")
