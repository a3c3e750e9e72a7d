"""Files and folders of other libraries, which are recognised so that a message can say what they are."""

from __future__ import annotations

import json
from pathlib import Path

from distill.errors import UserError
from distill.files import read_table
from distill.ship.config_file import CONFIG

SUFFIXES = {
    ".onnx": ("an ONNX file", "Open it with onnxruntime"),
    ".pt2": ("a program of torch.export", "Open it with torch.export.load"),
    ".safetensors": ("a file of tensors", "Name the folder of the export that it belongs to"),
    ".pt": ("a file of PyTorch's", "Open it with the library that wrote it"),
    ".pth": ("a file of PyTorch's", "Open it with the library that wrote it"),
    ".bin": ("a file of PyTorch's", "Open it with the library that wrote it"),
}
OWN = "distill loads the folder that 'distill export --format distill' writes."


def check(path: Path) -> None:
    """Raise ``UserError`` if a file or folder is known to be of another library; say what it is and what to do."""
    found = what(path)
    if found is not None:
        kind, remedy = found
        raise UserError(f"{path} is {kind}, not an export in distill's own format.", f"{remedy}; {OWN}")


def what(path: Path) -> tuple[str, str] | None:
    """What a file or folder of another library is, and how it is opened; None if it is none that is known."""
    if path.is_file():
        return SUFFIXES.get(path.suffix)
    if (path / "open_clip_config.json").is_file():
        return (
            "a folder of open_clip",
            f"Measure it with 'distill evaluate open_clip/local-dir:{path}', or open it with "
            f"open_clip.create_model_and_transforms('local-dir:{path}')",
        )
    if any(path.glob("*.onnx")):
        return "a folder of ONNX files", "Open them with onnxruntime, as its example.py does"
    if any(path.glob("*.pt2")):
        return "a folder of programs of torch.export", "Open them with torch.export.load"
    if (path / CONFIG).is_file() and is_of_timm(path / CONFIG):
        return (
            "a folder of timm",
            f"Open it with timm.create_model('local-dir:{path}', pretrained=True), or measure its features before the "
            f"last layer, as those of a teacher, with 'distill evaluate {path}'",
        )
    return None


def is_of_timm(config: Path) -> bool:
    """Whether a file is the ``config.json`` of a folder that timm has saved."""
    try:
        return "architecture" in read_table(config, json.loads)
    except ValueError:
        return False
