"""distill's own format: safetensors towers, tokenizer, configuration and model card. No teacher, no pickle."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from distill.files import write_text, write_whole
from distill.ship import model_card
from distill.ship.config_file import CONFIG
from distill.ship.contents import Shipped


def write(shipped: Shipped, folder: Path, name: str) -> None:
    """Write ``config.json``, a safetensors file for each tower, the tokenizer and the model card."""
    for modality in shipped.modalities:
        tower = shipped.tower(modality)
        write_whole(folder / f"{modality}.safetensors", lambda to, tensors=tower: save_file(tensors, to))  # type: ignore[misc]
    if shipped.tokenizer is not None:
        model = shipped.tokenizer.model
        write_whole(folder / shipped.tokenizer.FILE, lambda to: to.write_bytes(model))
    write_text(folder / CONFIG, shipped.config.model_dump_json(indent=1) + "\n")
    write_text(folder / "README.md", model_card.render(shipped.config, name))


FORMAT = write
