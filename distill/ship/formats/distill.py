"""distill's own format: safetensors towers, tokenizer, configuration and model card. No teacher, no pickle."""

from __future__ import annotations

from pathlib import Path

from distill.files import write_text
from distill.ship import hashes
from distill.ship.config_file import CONFIG, Config
from distill.ship.contents import Shipped
from distill.ship.export_format import ExportFormat, Numbers, Opened
from distill.ship.weights import save, save_tokenizer

LOADING = """import distill

model = distill.load("{name}")
images = model.encode_image("photo.jpg")              # [1, {width}]
"""
WITH_TEXT = """texts = model.encode_text("a red apple")              # [1, {width}]
model.zero_shot("photo.jpg", ["an apple", "a pear"])  # [1, 2] probabilities
"""


class Distill(ExportFormat):
    """``config.json`` with the hashes of all files, a safetensors file for each tower, and the tokenizer."""

    opens = "distill"

    def write(self, shipped: Shipped, folder: Path, numbers: Numbers) -> None:
        for modality in shipped.modalities:
            save(folder / f"{modality}.safetensors", shipped.tower(modality), numbers.dtype)
        save_tokenizer(shipped, folder)
        config = hashes.signed(shipped.config, folder)
        write_text(folder / CONFIG, config.model_dump_json(indent=1) + "\n")

    def open(self, folder: Path, config: Config) -> Opened:
        from distill.ship.build import build
        from distill.ship.load import read_export

        model = build(read_export(folder), "cpu")
        return Opened(model.encode_image, model.encode_text if config.text else None)

    def loading(self, config: Config, name: str) -> str:
        return (LOADING + (WITH_TEXT if config.text else "")).format(name=name, width=config.width)


FORMAT = Distill()
