"""Programs of torch.export, which plain torch loads: pixels or token ids in, unit rows out."""

from __future__ import annotations

from pathlib import Path

import torch

from distill.files import write_whole
from distill.ship.config_file import Config
from distill.ship.contents import Shipped
from distill.ship.export_format import Embed, ExportFormat, Numbers, Opened, open_towers
from distill.ship.weights import StoredAs, program, quiet, save_about, save_tokenizer, towers

LOADING = """import torch

image = torch.export.load("{name}/image.pt2").module()
rows = image(pixels)  # [n, 3, {side}, {side}] uint8 → [n, {width}]
"""
WITH_TEXT = """text = torch.export.load("{name}/text.pt2").module()
rows = text(ids)      # [n, {context}] int64 token ids of {file}, padded with 0 → [n, {width}]
"""


class TorchPrograms(ExportFormat):
    """``image.pt2``, ``text.pt2``, the tokenizer, and ``config.json`` with the preprocessing. Any number of rows."""

    opens, library = "torch", "pytorch"

    def write(self, shipped: Shipped, folder: Path, numbers: Numbers) -> None:
        for modality, (tower, inputs) in towers(shipped).items():
            module = tower if numbers.dtype == "fp32" else StoredAs(tower, numbers.dtype)
            made = program(module, inputs)
            with quiet():
                write_whole(folder / f"{modality}.pt2", lambda to, made=made: save_program(made, to))  # type: ignore[misc]
        save_tokenizer(shipped, folder)
        save_about(shipped, folder)

    def open(self, folder: Path, config: Config) -> Opened:
        def load(modality: str) -> Embed:
            program = torch.export.load(str(folder / f"{modality}.pt2")).module()
            return lambda inputs: program(inputs).detach()

        return open_towers(folder, config, load)

    def loading(self, config: Config, name: str) -> str:
        found = LOADING.format(name=name, side=config.image.image_size, width=config.width)
        if config.text:
            context, file = config.text.options().context, config.text.tower_class().Tokenizer.FILE
            found += WITH_TEXT.format(name=name, context=context, file=file, width=config.width)
        return found


def save_program(made: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program; given a path, torch would insist on a name that ends in .pt2."""
    with path.open("wb") as file:
        torch.export.save(made, file)


FORMAT = TorchPrograms()
