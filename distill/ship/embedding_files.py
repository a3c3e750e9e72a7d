"""Files of embeddings: rows with a name each, in the format that the file's suffix names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from distill.errors import UserError, did_you_mean
from distill.files import write_text, write_whole

Rows = np.ndarray  # [n, D] float32


def write_safetensors(path: Path, rows: Rows, names: Sequence[str]) -> None:
    """A tensor "embeddings"; "names" in the metadata is a JSON list."""
    from safetensors.numpy import save_file

    metadata = {"names": json.dumps(list(names), ensure_ascii=False)}
    write_whole(path, lambda to: save_file({"embeddings": rows}, to, metadata=metadata))


def read_safetensors(path: Path) -> tuple[Rows, list[str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("embeddings"), list(json.loads((file.metadata() or {})["names"]))
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error


def names_file(path: Path) -> Path:
    """The file with the names of the rows of a ``.npy`` file: a JSON list."""
    return path.with_suffix(".names.json")


def write_npy(path: Path, rows: Rows, names: Sequence[str]) -> None:
    """A NumPy array; the names are a JSON list in a file beside it, NAME.names.json."""
    write_text(names_file(path), json.dumps(list(names), ensure_ascii=False, indent=0) + "\n")

    def save(to: Path) -> None:
        with to.open("wb") as file:  # given a path, NumPy would add .npy to the temporary name
            np.save(file, rows)

    write_whole(path, save)


def read_npy(path: Path) -> tuple[Rows, list[str]]:
    return np.load(path, allow_pickle=False), list(json.loads(names_file(path).read_text(encoding="utf-8")))


def write_parquet(path: Path, rows: Rows, names: Sequence[str]) -> None:
    """A table with the columns "name" and "embedding", a list of D float32."""
    import pyarrow
    from pyarrow import parquet

    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])
    table = pyarrow.table({"name": pyarrow.array(list(names), pyarrow.string()), "embedding": values})
    write_whole(path, lambda to: parquet.write_table(table, to))


def read_parquet(path: Path) -> tuple[Rows, list[str]]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    rows = np.stack(table["embedding"].to_numpy()) if len(table) else np.empty((0, 0))
    return rows.astype(np.float32), table["name"].to_pylist()


FORMATS: dict[str, tuple[Callable[[Path, Rows, Sequence[str]], None], Callable[[Path], tuple[Rows, list[str]]]]] = {
    ".safetensors": (write_safetensors, read_safetensors),
    ".npy": (write_npy, read_npy),
    ".parquet": (write_parquet, read_parquet),
}


def check(path: Path) -> None:
    """Check that embeddings can be written to a file, before they are computed.

    Raises:
        UserError: if its suffix is of no format, a package for it is missing, or it exists.
    """
    if path.suffix not in FORMATS:
        known = ", ".join(FORMATS)
        remedy = did_you_mean(path.suffix, FORMATS, f"Name a file that ends with one of {known}.")
        raise UserError(f"{path} ends with '{path.suffix}', which names no format of embeddings.", remedy)
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UserError("Parquet files need the package 'pyarrow'.", "pip install 'distill[parquet]'") from error
    beside = [names_file(path)] if path.suffix == ".npy" else []
    if existing := [file for file in (path, *beside, skipped_file(path)) if file.exists()]:
        raise UserError(f"{existing[0]} already exists.", "Choose another --out.")


def skipped_file(path: Path) -> Path:
    """The file beside one of embeddings that lists what could not be embedded: lines of {"name", "reason"}."""
    return path.with_name(f"{path.name}.skipped.jsonl")


def write(path: Path, rows: Rows, names: Sequence[str], skipped: Sequence[tuple[str, str]] = ()) -> None:
    """Write embeddings to a file whose name :func:`check` has accepted.

    Args:
        path: of the file.
        rows: [n, D] float32.
        names: of the n rows.
        skipped: (name, reason) of what could not be embedded, for :func:`skipped_file`, written if there is any.
    """
    if skipped:
        lines = [json.dumps({"name": name, "reason": reason}, ensure_ascii=False) + "\n" for name, reason in skipped]
        write_text(skipped_file(path), "".join(lines))
    FORMATS[path.suffix][0](path, np.ascontiguousarray(rows, dtype=np.float32), names)


def read(path: Path) -> tuple[Rows, list[str]]:
    """The rows, [n, D] float32, and the names in a file that :func:`write` wrote.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        rows, names = FORMATS[path.suffix][1](path)
        if rows.ndim != 2 or len(rows) != len(names):
            raise ValueError(f"{len(names)} names for an array of the shape {list(rows.shape)}")
        return rows, names
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as embeddings: {error}.", "Write it again with distill embed."
        ) from error
