"""The base class of image and text towers: projection, locking of parts, initial weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn


class Tower(nn.Module):
    """A network that maps inputs to outputs by name, "embedding" [n, D] among them, with parts that may be locked.

    Attributes:
        prefix: the prefix of the network's names in the tower's state dict, such as "net."; recipes leave it out.
        locked: the dotted names of locked modules or parameters: without gradient, always in evaluation mode.
    """

    prefix: str = ""
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
    def reads(cls, path: Path) -> bool:
        """Whether :meth:`read` is for what lies at a path, a folder or a file that another tool has saved."""
        return False

    @classmethod
    def read(cls, path: Path) -> dict[str, torch.Tensor]:
        """The weights that another tool has saved at a path, by the names of the tower's own state dict.

        They lack what the tower has and the path does not, such as a projection.

        Raises:
            ValueError: if they are missing or damaged, or of another architecture.
        """
        raise ValueError(f"{cls.__name__} reads no weights of other tools.")

    def start_from(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load weights, except those of a projection of another width, which keeps its random ones.

        Args:
            state: the state dict of a network of the same architecture.

        Raises:
            ValueError: if it is that of another architecture or size.
        """
        own, projection = self.state_dict(), self.projection()
        state = {f"{self.prefix}{name}": value for name, value in state.items()}
        fitting = {
            name: value
            for name, value in state.items()
            if not below(name, projection) or (name in own and own[name].shape == value.shape)
        }
        kept = {name: value for name, value in own.items() if name not in fitting and below(name, projection)}
        check_fit({**fitting, **kept}, own, self.prefix)
        self.load_state_dict({**fitting, **kept}, strict=True)


def check_fit(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Raise ``ValueError`` if two state dicts differ in a name or a shape; the message names the first difference."""
    for kind, names in (("lack", own.keys() - state.keys()), ("have", state.keys() - own.keys())):
        if names:
            first = min(names).removeprefix(prefix)
            raise ValueError(
                f"The weights to start from are of another architecture: they {kind} '{first}' and {len(names) - 1} "
                "more such tensors. Choose the architecture they come from."
            )
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"The weights to start from are of another size: '{name.removeprefix(prefix)}' is "
                f"{tuple(state[name].shape)}, the tower's {tuple(value.shape)}. Give the tower the options they come "
                "from, image size included."
            )


def below(name: str, part: str) -> bool:
    """Whether a dotted name is that of a part, or of a module or parameter inside it."""
    return name == part or name.startswith(f"{part}.")
