"""The parameters that are decayed: the kernels of linear layers and convolutions."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of torch's MultiheadAttention


def kernels(model: nn.Module) -> set[str]:
    """The names of the kernels of linear layers, convolutions and torch's attention, as ``model`` names them.

    The number of dimensions does not identify them: position embeddings, class and register tokens, pooling queries,
    token embeddings, tables of relative positions, layer scales and the gains of standardised convolutions have
    several dimensions too. A kernel that is shared with an embedding (tied weights) counts as an embedding.
    """
    from timm.layers import CondConv2d  # a convolution, but not a subclass of torch's

    kernel_ids: set[int] = set()
    embedding_ids: set[int] = set()
    for module in model.modules():
        parameters = dict(module.named_parameters(recurse=False))
        if isinstance(module, (nn.Linear, _ConvNd, CondConv2d)):
            kernel_ids |= {id(parameters[name]) for name in ("weight",) if name in parameters}
        elif isinstance(module, nn.MultiheadAttention):
            kernel_ids |= {id(parameters[name]) for name in ATTENTION if name in parameters}
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            embedding_ids.add(id(module.weight))
    return {name for name, parameter in model.named_parameters() if id(parameter) in kernel_ids - embedding_ids}


def decayed_parameters(model: nn.Module) -> set[str]:
    """The names of the parameters that are decayed: :func:`kernels` without those that a network excludes.

    As in timm, a network's ``no_weight_decay()`` returns what must not be decayed: names of parameters or modules, or
    patterns, relative to the network. The method of every module inside ``model`` that has one is called.
    """
    decayed = kernels(model)
    for prefix, module in model.named_modules():
        excluded = getattr(module, "no_weight_decay", None)
        if callable(excluded):
            dotted = f"{prefix}." if prefix else ""
            patterns = [pattern for name in excluded() for pattern in (name, f"{name}.*")]
            relative = {name: name.removeprefix(dotted) for name in decayed if name.startswith(dotted)}
            decayed -= {name for name, inside in relative.items() if any(fnmatchcase(inside, p) for p in patterns)}
    return decayed
