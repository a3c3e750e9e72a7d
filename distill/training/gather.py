"""Build an objective's inputs from the rows of each process, gathering in one collective the rows it compares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from launch import group as processes
from losses import Embeddings, NamedRows, Needs, Objective, TeacherRows
from losses.projections import Rows

LOSS_PARAMETERS = ("scale", "bias")  # not rows: equal on every process, so never gathered


class NotFiniteRows(Exception):
    """A row of a :class:`~distill.training.model.Model`, or its scale or bias, is NaN or infinite.

    All processes raise it in the same step.

    Attributes:
        positions: the positions in the global batch of the samples whose rows are not finite; all of the process's
            samples if its scale or bias is not finite.
        names: the names of the rows that are not finite on this process; empty if only other processes have some.
    """

    def __init__(self, positions: list[int], names: list[str]) -> None:
        super().__init__(f"{', '.join(names) or 'rows of another process'} at {positions}")
        self.positions, self.names = positions, names


def embeddings(
    rows: Rows, needs: Needs, weights: Sequence[float], group: processes.Group, captioned: int | None = None
) -> list[Embeddings]:
    """The objective's inputs: one :class:`Embeddings` for each caption that an image has in this batch.

    Args:
        rows: the rows that a :class:`~distill.training.model.Model` computed for this process's share.
        needs: the objective's; ``needs.gather`` names the rows that are gathered, all others stay local.
        weights: the weight of each teacher; empty if the objective reads no teacher.
        group: the process group.
        captioned: how many samples of the share have captions, the first ones; None if all have.

    Raises:
        NotFiniteRows: on every process, if any value on any process is not finite: a flag per sample is gathered
            along with the rows.
    """
    parameters = {name: value for name, value in rows.items() if name in LOSS_PARAMETERS}
    local = {name: value for name, value in rows.items() if name not in LOSS_PARAMETERS}
    shared = {name: local.pop(name) for name in list(local) if name.rpartition("/")[2] in needs.gather}
    n = sample_count(rows)
    captioned = n if captioned is None else captioned
    finite = finite_rows(rows, n)
    flags = torch.stack(list(finite.values())).all(0).float()[:, None]
    gathered = processes.gather({**shared, "finite": flags}, group)
    positions = (gathered.pop("finite")[:, 0] == 0).nonzero()[:, 0].tolist()
    if positions:
        raise NotFiniteRows(positions, [name for name, flags in finite.items() if not flags.all()])
    gathered = {name: captioned_first(value, group.world, n, captioned) for name, value in gathered.items()}
    captions = max(value.shape[1] for value in (*gathered.values(), *local.values()))
    return [
        Embeddings(
            gathered=select_rows(gathered, "", caption),
            local=select_rows(local, "", caption),
            scale=parameters["scale"],
            bias=parameters.get("bias"),
            teachers=tuple(
                TeacherRows(select_rows(gathered, f"{k}/", caption), select_rows(local, f"{k}/", caption), weight)
                for k, weight in enumerate(weights)
            ),
            rows=slice(group.rank * n, (group.rank + 1) * n),
            captioned=group.world * captioned if captioned < n else 0,
            captioned_rows=slice(group.rank * captioned, (group.rank + 1) * captioned),
        )
        for caption in range(captions)
    ]


def select_rows(rows: Rows, prefix: str, caption: int) -> NamedRows:
    """Rows [n, …] of one caption, from those [n, 1 or C, …] whose names have exactly this prefix, which is removed.

    Rows [n, 1, …] are the same for every caption.
    """
    return NamedRows(
        {
            name.removeprefix(prefix): value[:, min(caption, value.shape[1] - 1)]
            for name, value in rows.items()
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        }
    )


def captioned_first(gathered: torch.Tensor, world: int, n: int, captioned: int) -> torch.Tensor:
    """Rows that were gathered in rank order, with those of all processes' captioned samples first.

    Args:
        gathered: [world · n, …], each process's captioned samples first; or [world · captioned, …].
        world: number of processes.
        n: samples of a process.
        captioned: those of them with captions.
    """
    if world == 1 or captioned == n or len(gathered) < world * n:
        return gathered
    by_process = gathered.unflatten(0, (world, n))
    return torch.cat([by_process[:, :captioned].flatten(0, 1), by_process[:, captioned:].flatten(0, 1)])


def sample_count(rows: Rows) -> int:
    """n, the number of samples; there may be fewer rows of texts."""
    return max(len(value) for name, value in rows.items() if name not in LOSS_PARAMETERS)


def finite_rows(rows: Rows, n: int) -> dict[str, torch.Tensor]:
    """By name, [n] bool: whether the rows of each sample are finite; those that a sample does not have are."""
    return {
        name: value.detach().isfinite().all().expand(n)
        if name in LOSS_PARAMETERS
        else pad(value.detach().flatten(1).isfinite().all(1), (0, n - len(value)), value=True)
        for name, value in rows.items()
    }


def terms(objective: Objective, per_caption: Sequence[Embeddings]) -> dict[str, torch.Tensor]:
    """The objective's terms, summed over the captions of an image (LiT, arXiv 2111.07991, appendix C)."""
    values = [objective(embeddings) for embeddings in per_caption]
    return {name: torch.stack([value[name] for value in values]).sum() for name in values[0]}
