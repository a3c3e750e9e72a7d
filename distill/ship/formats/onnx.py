"""ONNX files that onnxruntime computes: pixels or token ids in, unit rows out; and a program that uses them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError
from distill.files import write_text
from distill.ship import onnx_files
from distill.ship.config_file import Config
from distill.ship.contents import Shipped
from distill.ship.export_format import ExportFormat, Numbers, Opened, open_towers
from distill.ship.weights import save_about, save_tokenizer, towers

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUTS = {"image": "pixels", "text": "ids"}
EXAMPLE = '''"""Embed a picture{and_texts}: pip install numpy onnxruntime pillow{packages}"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
{imports}from PIL import Image, ImageOps

{encode}here, side = Path(__file__).parent, {side}
picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
short = min(picture.size)  # of the largest central square
left, top = (picture.width - short) // 2, (picture.height - short) // 2
square = picture.crop((left, top, left + short, top + short))
small = square if short == side else square.resize((side, side), Image.Resampling.{interpolation})
pixels = np.asarray(small).transpose(2, 0, 1)[None]  # [1, 3, {side}, {side}] uint8
image = onnxruntime.InferenceSession(here / "image.onnx").run(None, {{"pixels": pixels}})[0]
'''
TEXT = """ids = encode(sys.argv[2:], here / "{file}", {context})  # [n, {context}] int64
texts = onnxruntime.InferenceSession(here / "text.onnx").run(None, {{"ids": ids}})[0]
print(image @ texts.T)  # cosine similarities, [1, n]
"""
LOADING = """import onnxruntime

image = onnxruntime.InferenceSession("{name}/image.onnx")
rows = image.run(None, {{"pixels": pixels}})[0]  # [n, 3, {side}, {side}] uint8 → [n, {width}]
"""
WITH_TEXT = """text = onnxruntime.InferenceSession("{name}/text.onnx")
rows = text.run(None, {{"ids": ids}})[0]  # [n, {context}] int64 token ids of {file}, padded with 0 → [n, {width}]
"""
WHOLE = "# example.py does all of it, with NumPy and Pillow: python {name}/example.py photo.jpg{texts}\n"


class Onnx(ExportFormat):
    """``image.onnx``, ``text.onnx``, the tokenizer, ``config.json`` with the preprocessing, and ``example.py``."""

    opens, library, int8 = "onnxruntime", "onnx", True

    def check(self, shipped: Shipped) -> None:
        for package in PACKAGES:
            try:
                __import__(package)
            except ImportError as error:
                raise UserError(
                    f"The export format 'onnx' needs the package '{package}'.", "pip install 'distill[export]'"
                ) from error

    def write(self, shipped: Shipped, folder: Path, numbers: Numbers) -> None:
        for modality, (tower, inputs) in towers(shipped).items():
            path = folder / f"{modality}.onnx"
            onnx_files.write_onnx(tower, inputs, path, INPUTS[modality])
            if numbers.int8 and modality == "image":
                assert numbers.calibration is not None
                onnx_files.quantize_image(path, numbers.calibration)
            elif numbers.int8:
                onnx_files.quantize_text(path)
            elif numbers.dtype != "fp32":
                onnx_files.store_as(path, numbers.dtype)
        save_tokenizer(shipped, folder)
        save_about(shipped, folder)
        write_text(folder / "example.py", example(shipped.config))

    def open(self, folder: Path, config: Config) -> Opened:
        return open_towers(folder, config, partial(session, folder))

    def loading(self, config: Config, name: str) -> str:
        found = LOADING.format(name=name, side=config.image.image_size, width=config.width)
        if config.text:
            context, file = config.text.options().context, config.text.tower_class().Tokenizer.FILE
            found += WITH_TEXT.format(name=name, context=context, file=file, width=config.width)
        return found + WHOLE.format(name=name, texts=' "a red apple" "a pear"' if config.text else "")


def example(config: Config) -> str:
    """The content of ``example.py``: a program of plain NumPy, onnxruntime and Pillow that embeds a picture and texts.

    Without a text tower, or with a tokenizer that does not say how it is used, it prints the embedding of the picture.
    """
    image, tokenizer = config.image, config.text.tower_class().Tokenizer if config.text else None
    encode = tokenizer.EXAMPLE if tokenizer else ""
    found = EXAMPLE.format(
        and_texts=" and texts" if encode else "",
        packages=f" {tokenizer.PACKAGE}" if encode and tokenizer else "",
        imports=f"import {tokenizer.PACKAGE}\n" if encode and tokenizer else "",
        encode=f"\n{encode}\n\n" if encode else "",
        side=image.image_size,
        interpolation=image.interpolation.upper(),
    )
    if not (encode and tokenizer and config.text):
        return found + "print(image)\n"
    return found + TEXT.format(file=tokenizer.FILE, context=config.text.options().context)


def session(folder: Path, modality: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A tower in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as the students that it is compared with
    options.log_severity_level = 3
    made: Any = onnxruntime.InferenceSession(
        str(folder / f"{modality}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return lambda inputs: torch.from_numpy(made.run(None, {INPUTS[modality]: inputs.numpy()})[0])


FORMAT = Onnx()
