"""Which parameters weight decay is for: the kernels of linear layers and convolutions."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of torch's MultiheadAttention


def kernels(model: nn.Module) -> set[str]:
    """The names of the kernels of linear layers, convolutions and torch's attention, as ``model`` names them.

    The shape does not tell: position embeddings, class and register tokens, pooling queries, token embeddings, tables
    of relative positions, layer scales and the gains of standardised convolutions have several dimensions too. A
    kernel that is also the weight of an embedding (tied weights) counts as an embedding.
    """
    from timm.layers import CondConv2d  # a convolution, but not a subclass of torch's

    found: set[int] = set()
    embeddings: set[int] = set()
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, (nn.Linear, _ConvNd, CondConv2d)):
            found |= {id(own[name]) for name in ("weight",) if name in own}
        elif isinstance(module, nn.MultiheadAttention):
            found |= {id(own[name]) for name in ATTENTION if name in own}
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            embeddings.add(id(module.weight))
    return {name for name, parameter in model.named_parameters() if id(parameter) in found - embeddings}


def decayed_parameters(model: nn.Module) -> set[str]:
    """The names of the parameters that weight decay is for: :func:`kernels` without those a network excludes.

    timm's networks, and others in their manner, name in ``no_weight_decay()`` what must not be decayed: parameters,
    modules or patterns, relative to the network. Networks anywhere inside ``model`` are asked.
    """
    found = kernels(model)
    for prefix, module in model.named_modules():
        excluded = getattr(module, "no_weight_decay", None)
        if callable(excluded):
            start = f"{prefix}." if prefix else ""
            patterns = [pattern for name in excluded() for pattern in (name, f"{name}.*")]
            inside = {name: name.removeprefix(start) for name in found if name.startswith(start)}
            found -= {name for name, own in inside.items() if any(fnmatchcase(own, p) for p in patterns)}
    return found
