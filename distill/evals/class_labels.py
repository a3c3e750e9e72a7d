"""Classes of samples: labels as data sets have them, numbers or names, and files with the names of classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.packing.columns import CLASS_COLUMNS
from distill.errors import UserError
from distill.evals.dataset import Classes

KEYS = CLASS_COLUMNS  # of a sample's JSON or columns of a table, if no other is named
Names = tuple[tuple[str, ...], ...]


def keys_for(label: str) -> tuple[str, ...]:
    """The keys under which a class is looked for: ``label`` or, if that is "", the usual ones."""
    return (label,) if label else KEYS


def class_in(entry: Mapping[str, Any], label: str) -> Any:
    """The class in a sample's JSON or a row, see :func:`keys_for`; None if there is none."""
    return next((entry[key] for key in keys_for(label) if entry.get(key) is not None), None)


def classes_of(values: Sequence[Any], names: Names, called: Sequence[Any], templates: tuple[str, ...]) -> Classes:
    """The classes of samples.

    Args:
        values: each sample's class, all numbers or all names.
        names: the names of the classes, from a file; empty if there is none.
        called: for numbers without such a file, each sample's class by name where it has one, else None.
        templates: see :class:`Classes`.

    Raises:
        UserError: if a sample has no class, numbers and names are mixed, or a name is not in the file.
    """
    missing = next((i for i, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise UserError(
            f"{sum(value is None for value in values)} of {len(values)} samples have no class, the first is number "
            f"{missing}.",
            "Name the key or column of the classes with --label.",
        )
    numbers = [number_of(value) for value in values]
    if all(number is not None for number in numbers):
        labels = np.array(numbers, dtype=np.int64)
        return Classes(labels, names or names_by_number(labels, called), templates)
    texts = [str(value) for value in values]
    if not names:
        names = tuple((name,) for name in sorted(set(texts)))
    index: dict[str, int] = {}
    for number, group in enumerate(names):
        for name in group:
            if index.setdefault(name, number) != number:
                raise UserError(
                    f"Two classes are called '{name}', and samples give their class by name.",
                    "Give every class names of its own, or label samples by number.",
                )
    unknown = sorted({text for text in texts if text not in index})
    if unknown:
        raise UserError(
            f"{len(unknown)} classes of samples are not among the {len(names)} of the file of classes, such as "
            f"'{unknown[0]}'.",
            "Name the file with this data set's classes.",
        )
    return Classes(np.array([index[text] for text in texts], dtype=np.int64), names, templates)


def number_of(value: Any) -> int | None:
    """A class's number; None if the value is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.strip().isdigit() else None


def names_by_number(labels: np.ndarray, called: Sequence[Any]) -> Names:
    """The names that samples give their class beside its number; "class 3" where none does.

    Raises:
        UserError: if two samples of one number have different names.
    """
    if not len(labels):
        return ()
    found: dict[int, str] = {}
    for label, name in zip(labels.tolist(), called, strict=True):
        if name is not None and found.setdefault(label, str(name)) != str(name):
            raise UserError(
                f"Class number {label} is called '{found[label]}' by one sample and '{name}' by another.",
                "Name one key of the classes with --label.",
            )
    return tuple((found.get(k, f"class {k}"),) for k in range(int(labels.max()) + 1))


def read_names(file: str) -> Names:
    """The names in a file: a class a line; or JSON: a list of names or of lists of names, or {name: [synonyms]}.

    Raises:
        UserError: if it cannot be read, or holds something else or fewer than two classes.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            found = names_in(json.loads(text), path)
        else:
            # An empty line among others is a class without a name: those after it keep their numbers.
            found = tuple((line.strip(),) for line in text.rstrip().split("\n"))
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"The classes {path} cannot be read: {why}.", "Name a file with a class a line.") from error
    if len(found) < 2:
        raise UserError(f"{file} names {len(found)} classes.", "A classification needs at least two.")
    return found


def names_in(tree: Any, path: Path) -> Names:
    """See :func:`read_names`."""
    if isinstance(tree, dict):
        tree = [[name, *(synonyms if isinstance(synonyms, list) else [synonyms])] for name, synonyms in tree.items()]
    entries = [[entry] if isinstance(entry, str) else entry for entry in tree] if isinstance(tree, list) else None
    if entries is None or any(
        not isinstance(entry, list) or not entry or not all(isinstance(name, str) and name.strip() for name in entry)
        for entry in entries
    ):
        raise UserError(
            f"{path} is no list of the names of classes.", 'Write ["cat", ["dog", "hound"]] or a name a line.'
        )
    return tuple(tuple(dict.fromkeys(name.strip() for name in entry)) for entry in entries)
