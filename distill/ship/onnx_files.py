"""ONNX files: written by torch's exporter, with weights as fp32, fp16, bf16 or 8-bit integers."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.ship.weights import quiet

LARGEST = 1_900_000_000  # bytes of weights that fit into an ONNX file itself, whose limit is 2 GB
CALIBRATION_BATCH = 16  # pictures a forward
SMALLEST = 256  # numbers of a weight that is stored as fp16 or bf16; smaller ones, constants among them, stay fp32
# Layers that are computed with 8-bit integers; normalisations and softmax stay as they are.
QUANTIZED = ["Conv", "Gemm", "MatMul"]


@torch.no_grad()
def write_onnx(module: nn.Module, inputs: torch.Tensor, path: Path, input_name: str) -> None:
    """Write a module as an ONNX file for any number of rows of ``inputs``; its output is called "rows"."""
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    with quiet(), silent():
        torch.onnx.export(
            module,
            (inputs,),
            str(path),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[input_name],
            output_names=["rows"],
            external_data=size > LARGEST,
            verbose=False,
        )
    forget_the_source(path, size > LARGEST)


def forget_the_source(path: Path, external: bool) -> None:
    """Remove the lines of source that the exporter notes of each operation: they name folders of this machine.

    Args:
        path: of the file.
        external: whether its weights are in a file beside it.
    """
    import onnx

    model = onnx.load(str(path))
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        described = [*graph.node, *graph.value_info]
        if graph is model.graph:
            described += [*graph.initializer, *graph.input, *graph.output]
        for part in (graph, *described):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    onnx.save(model, str(path), save_as_external_data=external, location=f"{path.name}.data" if external else None)


@contextmanager
def silent() -> Iterator[None]:
    """Without what the exporter and its optimiser print and log about their own work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)


def store_as(path: Path, dtype: str) -> None:
    """Store the weights of an ONNX file as fp16 or bf16; each is followed by a cast to fp32, for the arithmetic."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[dtype]
    model = onnx.load(str(path))
    graph, casts = model.graph, []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < SMALLEST:
            continue
        values = torch.from_numpy(numpy_helper.to_array(weight).copy())
        half = values.to(torch.float16 if dtype == "fp16" else torch.bfloat16)
        stored = helper.make_tensor(
            f"{weight.name}.{dtype}", kind, weight.dims, half.view(torch.int16).numpy().tobytes(), raw=True
        )
        casts.append(helper.make_node("Cast", [stored.name], [weight.name], to=TensorProto.FLOAT))
        weight.CopyFrom(stored)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    # The names of weights that were described as fp32 inside the graph.
    changed = {cast.output[0] for cast in casts}
    kept = [info for info in graph.value_info if info.name not in changed]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    onnx.save(model, str(path))


def quantize_image(path: Path, calibration: torch.Tensor) -> None:
    """Quantise an ONNX file to 8-bit integers: weights a channel each, activations by the ranges of pictures.

    Args:
        path: of the file, which is replaced.
        calibration: [n, 3, S, S] uint8.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration.split(CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder, quiet(), silent():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Pictures(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=QUANTIZED,
        )


def quantize_text(path: Path) -> None:
    """Quantise an ONNX file to 8-bit integers: weights a channel each, activations by their range in each text."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet(), silent():
        original = Path(shutil.copy(path, folder))
        quantize_dynamic(str(original), str(path), per_channel=True, weight_type=QuantType.QInt8)
