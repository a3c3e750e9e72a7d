"""The error message for a recipe that is not valid, from what pydantic says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from distill.errors import did_you_mean
from distill.other_names import remedy_for_key, remedy_for_value


def explain(
    error: ValidationError, model: type[BaseModel], prefix: str = "", beside: Iterable[str] = ()
) -> tuple[str, str]:
    """What is wrong and what to do, for the first error of a validation: the two arguments of a ``UserError``.

    Args:
        error: raised by the validation.
        model: the class that was validated.
        prefix: the dotted name of its table in the recipe; "" for the whole recipe.
        beside: further keys that this table has, and the model does not.
    """
    first = error.errors()[0]
    # For a field with a union of types, pydantic's location also names the types that it tried.
    location = [str(part) for part in first["loc"] if part != "bool" and not str(part).startswith("tuple[")]
    name = ".".join([prefix] * bool(prefix) + location)
    if first["type"] == "extra_forbidden":
        known = fields_at(model, location[:-1]) + ([] if location[:-1] else list(beside))
        table = ".".join([prefix] * bool(prefix) + location[:-1])
        return f"The recipe has an unknown key '{name}'.", remedy_for_key(location[-1], known, table)
    if first["type"] == "missing":
        return f"The recipe does not say '{name}'.", f"Set it there, or with --set {name}=VALUE."
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        return f"The recipe does not check out: {message}.", "Correct it."
    remedy = remedy_for_value(name, first["input"], f"Correct it, or --set {name}=VALUE.")
    return f"The recipe's '{name}' does not check out: {message}.", remedy


def fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys that exist in the table at ``location``, where list indices are skipped."""
    for part in location:
        if part.isdigit():
            continue
        annotation: Any = model.model_fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        model = next(a for a in inner if issubclass(a, BaseModel))
    return list(model.model_fields)


def explain_options(error: ValidationError, model: type[BaseModel], owner: str, flag: str) -> tuple[str, str]:
    """What is wrong with options that were given outside of a recipe, and what to do.

    Args:
        error: of their validation.
        model: the class whose fields they are.
        owner: what they are options of, such as "The launcher 'local'".
        flag: of the command line that sets one, such as "--launch".
    """
    first = error.errors()[0]
    name, known = ".".join(map(str, first["loc"])), list(model.model_fields)
    if first["type"] == "extra_forbidden":
        remedy = did_you_mean(name, known, f"Its options: {', '.join(known) or 'none'}.")
        return f"{owner} has no option '{name}'.", remedy
    if first["type"] == "missing":
        return f"{owner} needs the option '{name}'.", f"Add {flag} {name}=VALUE."
    message = first["msg"].removeprefix("Value error, ")
    return f"{owner} does not accept its option '{name}': {message}.", f"Correct {flag} {name}=VALUE."
