"""Tensors as exports store them, and towers as programs from pixels or token ids to unit rows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from distill.files import write_text, write_whole
from distill.ship.build import build
from distill.ship.contents import Shipped
from distill.ship.export_format import DTYPES


def cast(tensors: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Tensors with their floating-point numbers in another type; whole numbers, such as counters, stay as they are."""
    kind = DTYPES[dtype]
    return {k: (v.to(kind) if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}


def save(path: Path, tensors: Mapping[str, torch.Tensor], dtype: str) -> None:
    """Write a safetensors file that other libraries open, too: they ask for the framework in its metadata."""
    write_whole(path, lambda to: save_file(cast(tensors, dtype), to, metadata={"format": "pt"}))


def save_tokenizer(shipped: Shipped, folder: Path) -> None:
    """Write the tokenizer's file, if there is one."""
    if shipped.tokenizer is not None:
        model = shipped.tokenizer.model
        write_whole(folder / shipped.tokenizer.FILE, lambda to: to.write_bytes(model))


def save_about(shipped: Shipped, folder: Path) -> None:
    """Write ``config.json``: what is to be known beside programs that hold the towers."""
    config = shipped.config
    about = {
        "width": config.width,
        "temperature": config.temperature,
        "preprocessing": preprocessing(config.image),
        "text": {"context": config.text.options().context} if config.text else None,
        "provenance": config.provenance,
    }
    write_text(folder / "config.json", json.dumps(about, indent=1) + "\n")


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """[n, D] float32 unit rows on the CPU."""
    return nn.functional.normalize(rows.detach().float(), dim=-1).cpu()


class UnitRows(nn.Module):
    """A tower whose only output is its embedding, [n, D] float32 unit rows."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.tower(inputs)["embedding"].float(), dim=-1)


class StoredAs(nn.Module):
    """A module whose weights are stored in another type, and converted to fp32 before each forward."""

    def __init__(self, module: nn.Module, dtype: str) -> None:
        super().__init__()
        self.__dict__["hidden"] = module  # not as a submodule, whose fp32 weights would be stored too
        self.names = dict[str, str]()
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for number, (name, value) in enumerate(cast(state, dtype).items()):
            self.names[name] = f"weight_{number}"
            self.register_buffer(self.names[name], value.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        state = {name: getattr(self, own) for name, own in self.names.items()}
        state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        out: torch.Tensor = torch.func.functional_call(self.__dict__["hidden"], state, (inputs,))
        return out


def towers(shipped: Shipped) -> dict[str, tuple[UnitRows, torch.Tensor]]:
    """Each tower as :class:`UnitRows` in evaluation mode on the CPU, with two inputs: [2, 3, S, S] uint8 pixels of the
    image tower, [2, context] int64 token ids of the text tower."""
    model = build(shipped, "cpu")
    side = model.config.image.image_size
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = {"image": (UnitRows(model.image).eval(), pixels)}
    if model.text is not None and model.tokenizer is not None:
        found["text"] = (UnitRows(model.text).eval(), model.tokenizer.encode(["a photo of a red apple", "a cat"]))
    return found


@torch.no_grad()
def program(module: nn.Module, inputs: torch.Tensor) -> torch.export.ExportedProgram:
    """The exported program of a module, for any number of rows of ``inputs``.

    Without the lines of source that torch notes of each operation, which name folders of this machine.
    """
    with quiet():
        batch = torch.export.Dim("batch")
        made = torch.export.export(module, (inputs,), dynamic_shapes=({0: batch},), strict=False)
    for graph in (part for part in made.graph_module.modules() if isinstance(part, torch.fx.GraphModule)):
        for node in graph.graph.nodes:
            node.meta.pop("stack_trace", None)
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of exporters, which are about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def preprocessing(config: Any) -> dict[str, Any]:
    """How a picture becomes the pixels that the image tower of an :class:`ImageConfig` reads, in words and numbers."""
    return {
        "crop": "largest central square",
        "size": config.image_size,
        "interpolation": config.interpolation,
        "antialias": True,
        "pixels": f"uint8, [n, 3, {config.image_size}, {config.image_size}], RGB; normalised inside",
    }
