"""From one process's rows to what an objective reads: what it compares across samples gathered in one collective."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from launch import group as processes
from losses import Embeddings, NamedRows, Needs, Objective, TeacherRows
from losses.projections import Rows

NUMBERS = ("scale", "bias")  # parameters of the loss: alike on every process, not rows


class NotFiniteRows(Exception):
    """Something that a :class:`~distill.training.model.Model` computed is NaN or infinite; all processes raise it.

    Attributes:
        positions: which samples of the whole batch it happened to; all, where it is a number of the loss itself.
        names: of what is not finite on this process.
    """

    def __init__(self, positions: list[int], names: list[str]) -> None:
        super().__init__(f"{', '.join(names) or 'rows of another process'} at {positions}")
        self.positions, self.names = positions, names


def embeddings(rows: Rows, needs: Needs, weights: Sequence[float], group: processes.Group) -> list[Embeddings]:
    """What the objective is given, once for every caption an image has in this batch.

    Args:
        rows: what a :class:`~distill.training.model.Model` makes of this process's share.
        needs: of the objective; its ``gather`` names the rows that are gathered, all others stay local.
        weights: one a teacher; none where the objective reads no teacher.
        group: the processes.

    Raises:
        NotFiniteRows: where a row or a number is not finite. Which rows travels with them, so every process knows.
    """
    numbers = {name: value for name, value in rows.items() if name in NUMBERS}
    local = {name: value for name, value in rows.items() if name not in NUMBERS}
    shared = {name: local.pop(name) for name in list(local) if name.rpartition("/")[2] in needs.gather}
    n = samples_of(rows)
    finite = finite_rows(rows, n)
    flags = torch.stack(list(finite.values())).all(0).float()[:, None]
    gathered = processes.gather({**shared, "finite": flags}, group)
    positions = (gathered.pop("finite")[:, 0] == 0).nonzero()[:, 0].tolist()
    if positions:
        raise NotFiniteRows(positions, [name for name, flags in finite.items() if not flags.all()])
    captions = max(value.shape[1] for value in (*gathered.values(), *local.values()))
    return [
        Embeddings(
            gathered=part(gathered, "", caption),
            local=part(local, "", caption),
            scale=numbers["scale"],
            bias=numbers.get("bias"),
            teachers=tuple(
                TeacherRows(part(gathered, f"{k}/", caption), part(local, f"{k}/", caption), weight)
                for k, weight in enumerate(weights)
            ),
            rows=slice(group.rank * n, (group.rank + 1) * n),
        )
        for caption in range(captions)
    ]


def part(rows: Rows, prefix: str, caption: int) -> NamedRows:
    """The rows whose names have exactly this prefix, for one of the captions; [n, 1, …] belong to every caption."""
    return NamedRows(
        {
            name.removeprefix(prefix): value[:, min(caption, value.shape[1] - 1)]
            for name, value in rows.items()
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        }
    )


def samples_of(rows: Rows) -> int:
    """n, how many samples some rows are of."""
    return next(len(value) for name, value in rows.items() if name not in NUMBERS)


def finite_rows(rows: Rows, n: int) -> dict[str, torch.Tensor]:
    """By name, which samples' rows are finite: [n] each."""
    return {
        name: value.detach().isfinite().all().expand(n)
        if name in NUMBERS
        else value.detach().flatten(1).isfinite().all(1)
        for name, value in rows.items()
    }


def terms(objective: Objective, given: Sequence[Embeddings]) -> dict[str, torch.Tensor]:
    """The objective's terms, summed over the captions of an image (LiT, arXiv 2111.07991, appendix C)."""
    parts = [objective(one) for one in given]
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
