"""The files of safetensors in a folder: the names and shapes of their tensors, and single ones, without the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from teachers.folder import load_json

Shapes = dict[str, tuple[int, ...]]


def weight_files(folder: Path, name: str) -> list[Path]:
    """The file ``NAME.safetensors`` of a folder, or those over which its index says that the weights are spread.

    Raises:
        ValueError: if there is neither.
    """
    whole, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        if not whole.is_file():
            raise ValueError(f"{whole} is missing. Only safetensors are read: save the model again as such.")
        return [whole]
    names = load_json(index, dict).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} is damaged: it names no files. Save the model again.")
    return sorted({folder / Path(str(name)).name for name in names.values()})


def shapes(files: list[Path]) -> Shapes:
    """The shapes of all tensors in some files, by name, from the files' headers.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    found: Shapes = {}
    for path in files:
        with opened(path) as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def number(files: list[Path], name: str) -> float | None:
    """The first number of a tensor; None if no file has a tensor of that name.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    for path in files:
        with opened(path) as file:
            if name in file.keys():  # noqa: SIM118
                return float(file.get_tensor(name).flatten()[0])
    return None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file of safetensors, opened; raises ``ValueError`` if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}. Save the model again.") from error


def shape_of(found: Shapes, ending: str) -> tuple[int, ...]:
    """The shape of the tensor whose name is, or ends with a dot and, ``ending``; () if there is none."""
    return next((shape for name, shape in found.items() if f".{name}".endswith(f".{ending}")), ())
