"""The weights of a network, taken from another one with the same names, which may be larger.

Weight selection (Xu et al., "Initializing Models with Larger Ones", arXiv 2311.18823, section 3) takes the evenly
spaced part of every dimension of a larger tensor, and the first layers of a deeper network. TinyCLIP (Wu et al.,
arXiv 2309.12314, section 3.2) takes evenly spaced layers. All tensors use the same part of a width, so that the
channels that are kept stay connected to each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

EXACT = "none"  # no tensor is a part of a larger one
LAYERS: dict[str, Callable[[int, int], list[int]]] = {
    "first": lambda few, many: list(range(few)),
    "even": lambda few, many: [round(k * (many - 1) / max(1, few - 1)) for k in range(few)],
}
# Parts of a name of tensors that hold several projections one after the other, and how many.
JOINED = {"qkv": 3, "in_proj_weight": 3, "in_proj_bias": 3, "c_attn": 3, "kv": 2, "w12": 2}
POSITIONS = re.compile(r"(^|[._])(pos_embed|positions|positional_embedding|position_embeddings?)(\.weight)?$")
RELATIVE = re.compile(r"(^|[._])relative_position_bias_table$")
PREFIX = 6  # at most so many position embeddings, less one, belong to no place of the image
NAMED = 4  # as many tensors a report names


@dataclass
class Inherited:
    """Where the tensors of a network come from.

    Attributes:
        tensors: the state dict, without the tensors in ``random``.
        sizes: the number of elements of every tensor of the network.
        copied: the names of tensors that are those of the source.
        selected: those that are a part of the source's.
        interpolated: positions and patch embeddings that were interpolated for another number or size.
        random: those that the source does not have, which keep their random values.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    selected: list[str] = field(default_factory=list)
    interpolated: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)

    def share(self, *kinds: str) -> float:
        """The share of the network's weights that is of some kinds, from 0 to 1."""
        return sum(self.sizes[name] for kind in kinds for name in getattr(self, kind)) / sum(self.sizes.values())

    def counts(self) -> dict[str, int]:
        """The number of tensors of each kind."""
        return {kind: len(getattr(self, kind)) for kind in ("copied", "selected", "interpolated", "random")}

    def describe(self) -> str:
        """One line for the user, such as "210 tensors copied (97 % of the weights), 2 left random (3 %): head.…"."""
        parts = []
        for kind, what in (("copied", "copied"), ("selected", "selected"), ("interpolated", "interpolated")):
            if names := getattr(self, kind):
                parts.append(f"{len(names)} tensors {what} ({self.share(kind):.0%} of the weights)")
        if self.random:
            more = f" and {len(self.random) - NAMED} more" if len(self.random) > NAMED else ""
            listed = ", ".join(self.random[:NAMED]) + more
            parts.append(f"{len(self.random)} left random ({self.share('random'):.0%}): {listed}")
        return ", ".join(parts)


def inherit(
    own: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor], layers: str = EXACT, grid: bool = False
) -> Inherited:
    """Take the weights of a network from another one with the same names and at least the same sizes.

    Args:
        own: the state dict of the network, with any values.
        source: the state dict of the other one.
        layers: which layers of a deeper network, a key of ``LAYERS``; ``EXACT`` takes no part of anything.
        grid: whether positions are those of an image, a square grid, instead of those of a text.
    """
    deep, found = depths_of(source), Inherited()
    maps = {
        path: LAYERS[layers](few, deep[path])
        for path, few in depths_of(own).items()
        if layers != EXACT and few < deep.get(path, 0)
    }
    for name, value in own.items():
        origin = source.get(renamed(name, maps))
        kind, tensor = "random", value
        if origin is not None and origin.shape == value.shape:
            kind, tensor = "copied", origin
        elif origin is not None and origin.ndim == value.ndim and value.is_floating_point():
            resized = resize(name, origin, value, grid)
            if resized.shape == value.shape:
                kind, tensor = "interpolated", resized
            elif layers != EXACT and all(a >= b for a, b in zip(resized.shape, value.shape, strict=True)):
                kind, tensor = ("selected" if resized is origin else "interpolated"), part(resized, value.shape, name)
        getattr(found, kind).append(name)
        found.sizes[name] = value.numel()
        if kind != "random":
            found.tensors[name] = tensor
    return found


def depths_of(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The number of layers of each list of modules of a network, by its dotted name.

    With the tensors "stages.0.blocks.0.w", "stages.0.blocks.1.w" and "stages.1.blocks.0.w" it is
    {"stages": 2, "stages.0.blocks": 2, "stages.1.blocks": 1}.
    """
    numbers: dict[str, set[int]] = {}
    for name in state:
        for match in re.finditer(r"(?<!^)\.(\d+)(?=\.)", name):
            numbers.setdefault(name[: match.start()], set()).add(int(match[1]))
    return {path: len(found) for path, found in numbers.items() if found == set(range(len(found)))}


def renamed(name: str, maps: Mapping[str, list[int]]) -> str:
    """The name in the source of a tensor, whose layers may have other numbers there."""
    origin: list[str] = []
    path = ""
    for piece in name.split("."):
        numbers = maps.get(path)
        origin.append(str(numbers[int(piece)]) if numbers and piece.isdigit() else piece)
        path = f"{path}.{piece}" if path else piece
    return ".".join(origin)


def resize(name: str, origin: torch.Tensor, value: torch.Tensor, grid: bool) -> torch.Tensor:
    """Positions [..., T, W] for as many positions as ``value`` has, and patch embeddings for its patches.

    Of a text, the first positions are taken; there are none to take for a longer text. The channels stay as they are.
    Any other tensor is returned as it is.
    """
    few, many = value.shape[-2:][0], origin.shape[-2:][0]
    if "patch_embed" in name and origin.ndim == 4 and origin.shape[2:] != value.shape[2:]:
        from timm.layers import resample_patch_embed

        resampled: torch.Tensor = resample_patch_embed(origin.float(), list(value.shape[2:]))
        return resampled.to(origin.dtype)
    if RELATIVE.search(name) and few != many and is_square(few) and is_square(many):
        return on_grid(origin, few, 0)
    if not POSITIONS.search(name) or origin.ndim < 2 or few == many:
        return origin
    if not grid:
        return origin[..., :few, :]
    prefix = next((k for k in range(PREFIX) if is_square(few - k) and is_square(many - k)), None)
    return origin if prefix is None else on_grid(origin, few, prefix)


def on_grid(origin: torch.Tensor, few: int, prefix: int) -> torch.Tensor:
    """[..., T, W] → [..., few, W]: a square grid after ``prefix`` rows that stay, interpolated by timm."""
    from timm.layers import resample_abs_pos_embed

    side = round((few - prefix) ** 0.5)
    flat = origin.reshape(1, *origin.shape[-2:]).float()
    out: torch.Tensor = resample_abs_pos_embed(flat, [side, side], num_prefix_tokens=prefix)
    return out.reshape(*origin.shape[:-2], few, origin.shape[-1]).to(origin.dtype)


def is_square(number: int) -> bool:
    return number > 0 and round(number**0.5) ** 2 == number


def part(origin: torch.Tensor, shape: torch.Size, name: str) -> torch.Tensor:
    """The evenly spaced part of a tensor that has a given shape, at most as large in every dimension."""
    joined = max(JOINED.get(piece, 1) for piece in name.split("."))
    for dim, (many, few) in enumerate(zip(origin.shape, shape, strict=True)):
        if many != few:
            parts = joined if dim == 0 and many % joined == 0 and few % joined == 0 else 1
            origin = origin.index_select(dim, evenly(many, few, parts))
    return origin.clone()


def evenly(many: int, few: int, parts: int = 1) -> torch.Tensor:
    """[few] int64: evenly spaced numbers below ``many``, the same in each of several equal parts."""
    within = torch.arange(few // parts) * (many // parts) // (few // parts)
    return torch.cat([within + k * (many // parts) for k in range(parts)])
