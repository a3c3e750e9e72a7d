"""The base class of image and text towers: projection, locking of parts, initial weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from students.inheritance import EXACT, Inherited, inherit


class Tower(nn.Module):
    """A network that maps inputs to outputs by name, "embedding" [n, D] among them, with parts that may be locked.

    Attributes:
        prefix: the prefix of the network's names in the tower's state dict, such as "net."; recipes leave it out.
        grid: whether its learned positions are those of an image, a square grid.
        locked: the dotted names of locked modules or parameters: without gradient, always in evaluation mode.
    """

    prefix: str = ""
    grid: bool = False
    locked: tuple[str, ...] = ()

    def widths(self) -> dict[str, int]:
        """The width of each output, by name: D for "embedding"; W for "tokens" if it has them."""
        raise TypeError(f"{type(self).__name__} does not implement widths().")

    def checked(self, outputs: Sequence[str], available: Iterable[str]) -> Sequence[str]:
        """The names of outputs, if the tower computes all of them.

        Raises:
            ValueError: if it does not compute one of them.
        """
        if missing := [name for name in outputs if name not in available]:
            raise ValueError(f"{type(self).__name__} has no output '{missing[0]}', only {', '.join(available)}.")
        return outputs

    def chosen(self, computed: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        """Select outputs by name from those that were computed; raises like :meth:`checked`."""
        return {name: computed[name] for name in self.checked(outputs, computed)}

    def projection(self) -> str:
        """The dotted name of the last linear layer, whose output is the embedding of width D.

        Raises:
            ValueError: if the tower does not end in a linear layer.
        """
        raise TypeError(f"{type(self).__name__} does not implement projection().")

    def lock(self, names: Sequence[str] | bool) -> None:
        """Lock modules or parameters by their dotted names in the network; True locks everything but the projection.

        Raises:
            LookupError: if there is no part of such a name; the message names the nearest ones.
        """
        parts = dict(self.named_modules()) | dict(self.named_parameters())
        own = [name.removeprefix(self.prefix) for name in parts if name.startswith(self.prefix)]
        if isinstance(names, bool):
            kept = self.projection().removeprefix(self.prefix) if names else ""
            # Modules too, for the statistics of batch norms; but no module that contains the projection.
            names = [n for n in own if n and not below(n, kept) and not below(kept, n)] if names else []
        for name in names:
            if name not in own:
                near = difflib.get_close_matches(name, own, n=3)
                hint = f"Did you mean {' or '.join(near)}?" if near else "Its parts are named as in its state dict."
                raise LookupError(f"The tower has no part '{name}' to lock. {hint}")
        self.locked = tuple(f"{self.prefix}{name}" for name in names)
        for name, parameter in self.named_parameters():
            if any(below(name, part) for part in self.locked):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Tower:
        """Set the mode; locked parts stay in evaluation mode, so their batch statistics are never updated."""
        super().train(mode)
        modules = dict(self.named_modules())
        for name in self.locked:
            if name in modules:
                modules[name].eval()
        return self

    @classmethod
    def read(cls, path: Path) -> dict[str, torch.Tensor]:
        """The weights that another tool has saved at a path, by the names of the tower's own state dict.

        They lack what the tower has and the path does not, such as a projection.

        Raises:
            ValueError: if they are missing or damaged, or of another architecture.
        """
        raise ValueError(f"{cls.__name__} reads no weights of other tools.")

    def start_from(self, state: Mapping[str, torch.Tensor], layers: str = EXACT) -> Inherited:
        """Load weights, except those of a projection of another width, which keeps its random ones.

        Position embeddings are interpolated if the image has another size.

        Args:
            state: the state dict of a network of the same architecture, or with ``layers`` of a larger one.
            layers: see :func:`students.inheritance.inherit`.

        Returns:
            Which tensors were copied, selected, interpolated or left random; names as in the network.

        Raises:
            ValueError: if it is that of another architecture or, without ``layers``, size.
        """
        prefix, projection = self.prefix, self.projection().removeprefix(self.prefix)
        own = {n.removeprefix(prefix): v for n, v in self.state_dict().items() if n.startswith(prefix)}
        # A part of a projection's outputs would be in none of the spaces.
        widths = {n: v for n, v in own.items() if below(n, projection)}
        state = {n: v for n, v in state.items() if not below(n, projection) or fits_width(v, widths.get(n))}
        found = inherit(own, state, layers, self.grid)
        check_source(found, own, state, projection, layers)
        self.load_state_dict({f"{prefix}{n}": v for n, v in found.tensors.items()}, strict=False)
        return found


def fits_width(value: torch.Tensor, own: torch.Tensor | None) -> bool:
    """Whether a projection's tensor is for as many outputs as the network's own."""
    return own is not None and value.shape[:1] == own.shape[:1]


def check_source(
    found: Inherited,
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    projection: str,
    layers: str,
) -> None:
    """Raise ``ValueError`` if a network cannot start from a state dict; the message names the first difference.

    Args:
        found: what was found in it.
        own: the state dict of the network.
        state: that it shall start from.
        projection: the name of the projection, which may keep its random weights.
        layers: which layers are taken of a larger network.
    """
    missing = [name for name in found.random if not below(name, projection)]
    if layers != EXACT:
        needed = sum(found.sizes[name] for name in own if not below(name, projection))
        if sum(found.sizes[name] for name in missing) > needed / 2:
            raise ValueError(
                f"The weights to start from are of another family: more than half of the tower's are not among them, "
                f"'{missing[0]}' for example. Choose a larger network of the same family, whose tensors have the same "
                "names."
            )
        return
    for kind, names in (("lack", own.keys() - state.keys()), ("have", state.keys() - own.keys())):
        if names := {name for name in names if not below(name, projection)}:
            raise ValueError(
                f"The weights to start from are of another architecture: they {kind} '{min(names)}' and "
                f"{len(names) - 1} more such tensors. Choose the architecture they come from."
            )
    for name in missing:
        raise ValueError(
            f"The weights to start from are of another size: '{name}' is {tuple(state[name].shape)}, the tower's "
            f"{tuple(own[name].shape)}. Give the tower the options they come from; or take a part of larger weights "
            'with select = "first" or "even".'
        )


def below(name: str, part: str) -> bool:
    """Whether a dotted name is that of a part, or of a module or parameter inside it."""
    return name == part or name.startswith(f"{part}.")
