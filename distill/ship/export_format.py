"""The base class of export formats, and what the command line can ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from distill.errors import UserError
from distill.ship.config_file import Config
from distill.ship.contents import Shipped

Embed = Callable[[torch.Tensor], torch.Tensor]  # inputs of a tower → unit rows
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INT8 = "int8"
# The largest difference that is accepted between two numbers of unit rows. Rounding weights of 24 significant bits to
# 11 or 8 changes rows by about 1e-3 and 1e-2; a wrong layer, normalisation or tokenizer by about 1.
BOUNDS = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2, INT8: 0.2}


@dataclass(frozen=True)
class Numbers:
    """How the weights of an export are stored. In all formats and types arithmetic is in fp32, but for int8.

    Attributes:
        dtype: one of ``DTYPES``.
        int8: weights and activations as 8-bit integers, in the formats that have them.
        calibration: [n, 3, S, S] uint8, pictures from which the range of activations is measured; empty without int8.
    """

    dtype: str = "fp32"
    int8: bool = False
    calibration: torch.Tensor | None = None


@dataclass(frozen=True)
class Opened:
    """Written towers, opened again by the library that the format is for.

    Attributes:
        images: [n, 3, S, S] uint8 → [n, D] float32 unit rows.
        texts: n texts → [n, D] float32 unit rows; None if the format holds no text tower.
    """

    images: Callable[[torch.Tensor], torch.Tensor]
    texts: Callable[[Sequence[str]], torch.Tensor] | None = None


class ExportFormat(ABC):
    """A way to write students to a folder.

    Attributes:
        opens: what opens it, for tables.
        library: the name of that library on the Hugging Face hub, for the model card.
        dtypes: in which it can store weights.
        int8: whether it can store 8-bit integers.
        texts: whether it can hold a text tower.
    """

    opens: ClassVar[str]
    library: ClassVar[str] = "distill"
    dtypes: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    int8: ClassVar[bool] = False
    texts: ClassVar[bool] = True

    def check(self, shipped: Shipped) -> None:  # noqa: B027 (a format that can hold everything checks nothing)
        """Check that the format can hold the students, before anything is written.

        Raises:
            UserError: if it cannot, or a package is missing; it says what cannot be expressed.
        """

    @abstractmethod
    def write(self, shipped: Shipped, folder: Path, numbers: Numbers) -> None:
        """Write the students to an empty folder."""

    def open(self, folder: Path, config: Config) -> Opened | None:
        """Open what was written, by the library that it is for; None if the format cannot be opened here."""
        return None

    def loading(self, config: Config, name: str) -> str:
        """Python that embeds an image and a text by a folder called ``name``, for the model card; "" for none."""
        return ""

    def stored(self, numbers: Numbers) -> str:
        """The type of number in which it stores weights: a key of ``BOUNDS``."""
        return INT8 if numbers.int8 and self.int8 else numbers.dtype


def open_towers(folder: Path, config: Config, load: Callable[[str], Embed]) -> Opened:
    """What was written as a file a tower: ``load`` opens that of a modality."""
    image = load("image")
    if config.text is None:
        return Opened(image)
    kind = config.text.tower_class().Tokenizer
    tokenizer = kind.load(folder / kind.FILE, config.text.options().context)
    text = load("text")
    return Opened(image, lambda texts: text(tokenizer.encode(list(texts))))


def check_numbers(name: str, form: ExportFormat, numbers: Numbers) -> None:
    """Raise ``UserError`` if a format cannot store weights of that type."""
    if numbers.dtype not in DTYPES:
        raise UserError(f"'{numbers.dtype}' is no type of weights.", f"Choose --dtype {', '.join(DTYPES)}.")
    if numbers.dtype not in form.dtypes:
        raise UserError(
            f"The export format '{name}' cannot store weights as {numbers.dtype}.",
            f"Choose --dtype {' or '.join(form.dtypes)}.",
        )
