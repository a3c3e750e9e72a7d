"""Single rows of teacher cache files, read without mapping the files into memory.

With small shards nearly every row is in another file than the one before. Opening a file through safetensors takes ten
times as long as reading a row, and thousands of mapped files would fill a process's memory.
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch

from distill.data.open_files import OpenFiles

KEPT = 1 << 16  # files of which it is known where their tensors begin, about 20 MB
LONGEST_HEADER = 1 << 20  # bytes; that of a cache has some hundred

Starts = dict[str, tuple[int, list[int]]]  # by tensor, where in the file its first element is, and its leading sizes


class CacheRows:
    """The rows of numbered safetensors files, each with the same tensors, of one or more leading sizes.

    Args:
        path: gives the path of the file with a number.
        tensors: by name, the dtype as safetensors spells it, torch's, and the shape of one row.
    """

    def __init__(
        self, path: Callable[[int], str], tensors: Mapping[str, tuple[str, torch.dtype, tuple[int, ...]]]
    ) -> None:
        self.files, self.tensors = OpenFiles(path), tensors
        self._starts: OrderedDict[int, Starts] = OrderedDict()

    def read(self, number: int, names: Sequence[str], leading: Sequence[int], row: int) -> dict[str, torch.Tensor]:
        """One row of some tensors of a file.

        Args:
            number: of the file.
            names: of the tensors.
            leading: the leading sizes that they must have; empty for one of any size.
            row: which one, counted over all leading sizes.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is cut off, no file with these tensors, or has no such row.
        """
        file = self.files[number]
        if number not in self._starts:
            self._starts[number] = self._find(file)
            if len(self._starts) > KEPT:
                self._starts.popitem(last=False)
        found: dict[str, torch.Tensor] = {}
        for name in names:
            _, dtype, shape = self.tensors[name]
            start, sizes = self._starts[number][name]
            if (leading and sizes != [*leading]) or not 0 <= row < math.prod(sizes):
                raise ValueError(f"its '{name}' has another shape or type")
            size = math.prod(shape) * dtype.itemsize
            data = os.pread(file, size, start + row * size)
            if len(data) < size:
                raise ValueError("it is cut off")
            found[name] = torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
        return found

    def _find(self, file: int) -> Starts:
        """Where the tensors of an open file begin, from its header (https://github.com/huggingface/safetensors)."""
        size = int.from_bytes(os.pread(file, 8, 0), "little")
        if not 0 < size <= LONGEST_HEADER:
            raise ValueError("it is no safetensors file")
        starts: Starts = {}
        try:
            header = json.loads(os.pread(file, size, 8))
            for name, (dtype, _, shape) in self.tensors.items():
                stored = header[name]
                sizes = [int(x) for x in stored["shape"]]
                own = sizes[: len(sizes) - len(shape)]
                if stored["dtype"] != dtype or not own or sizes[len(own) :] != [*shape]:
                    raise ValueError(f"its '{name}' has another shape or type")
                starts[name] = 8 + size + int(stored["data_offsets"][0]), own
        except (KeyError, TypeError, IndexError, RecursionError) as error:
            raise ValueError("its header is damaged") from error
        return starts
