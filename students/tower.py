"""What image and text towers have in common: a projection at the end, parts that can be locked, initial weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import nn


class Tower(nn.Module):
    """A network that maps inputs to outputs by name, "embedding" [n, D] among them, with parts that may be locked.

    Attributes:
        inside: what stands before the names of the network in the tower's own state dict; users do not write it.
        locked: the dotted names of locked modules or parameters: no gradient, always in evaluation mode.
    """

    inside: str = ""
    locked: tuple[str, ...] = ()

    def widths(self) -> dict[str, int]:
        """The width of each of its outputs, by name: D of "embedding"; W of "tokens" where it gives these."""
        raise TypeError(f"{type(self).__name__} does not say what its outputs are.")

    def chosen(self, found: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        """Some outputs of all that were computed.

        Raises:
            ValueError: at an output that is not among them.
        """
        if missing := [name for name in outputs if name not in found]:
            raise ValueError(f"{type(self).__name__} has no output '{missing[0]}', only {', '.join(found)}.")
        return {name: found[name] for name in outputs}

    def projection(self) -> str:
        """The dotted name of the linear layer that ends in D, which belongs to the embedding, not to the network.

        Raises:
            ValueError: if the tower does not end in a linear layer.
        """
        raise TypeError(f"{type(self).__name__} does not say where its projection is.")

    def lock(self, names: Sequence[str] | bool) -> None:
        """Lock modules or parameters by the network's own names; True locks everything but the projection.

        Raises:
            LookupError: if there is no part of that name; the message names the nearest one.
        """
        parts = dict(self.named_modules()) | dict(self.named_parameters())
        own = [name.removeprefix(self.inside) for name in parts if name.startswith(self.inside)]
        if isinstance(names, bool):
            kept = self.projection().removeprefix(self.inside) if names else ""
            # Modules too, since a batch norm's statistics are no parameters; but none that holds the projection.
            names = [n for n in own if n and not below(n, kept) and not below(kept, n)] if names else []
        for name in names:
            if name not in own:
                near = difflib.get_close_matches(name, own, n=3)
                hint = f"Did you mean {' or '.join(near)}?" if near else "Its parts are named as in its state dict."
                raise LookupError(f"The tower has no part '{name}' to lock. {hint}")
        self.locked = tuple(f"{self.inside}{name}" for name in names)
        for name, parameter in self.named_parameters():
            if any(below(name, part) for part in self.locked):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Tower:
        """Locked parts stay in evaluation mode: their batch statistics never move."""
        super().train(mode)
        modules = dict(self.named_modules())
        for name in self.locked:
            if name in modules:
                modules[name].eval()
        return self

    def start_from(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over weights; those of a projection of another width are left as they are.

        Args:
            state: the state dict of a network of the same architecture.

        Raises:
            ValueError: if they are those of another architecture.
        """
        own, projection = self.state_dict(), self.projection()
        state = {f"{self.inside}{name}": value for name, value in state.items()}
        fitting = {
            name: value
            for name, value in state.items()
            if not below(name, projection) or (name in own and own[name].shape == value.shape)
        }
        kept = {name: value for name, value in own.items() if name not in fitting and below(name, projection)}
        check_fit({**fitting, **kept}, own, self.inside)
        self.load_state_dict({**fitting, **kept}, strict=True)


def check_fit(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], inside: str) -> None:
    """Raise ``ValueError`` unless two state dicts have the same names and shapes; name the first that differs."""
    for kind, names in (("lack", own.keys() - state.keys()), ("have", state.keys() - own.keys())):
        if names:
            first = min(names).removeprefix(inside)
            raise ValueError(
                f"The weights to start from are of another architecture: they {kind} '{first}' and {len(names) - 1} "
                "more such tensors. Choose the architecture they come from."
            )
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"The weights to start from are of another size: '{name.removeprefix(inside)}' is "
                f"{tuple(state[name].shape)}, the tower's {tuple(value.shape)}. Give the tower the options they come "
                "from, image size included."
            )


def below(name: str, part: str) -> bool:
    """Whether a dotted name is that of a part, or of something inside it."""
    return name == part or name.startswith(f"{part}.")
