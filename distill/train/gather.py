"""From one process's rows to what an objective looks at: the whole batch, gathered in one collective."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.train.spaces import Rows
from launch import group as processes
from losses import Embeddings, Needs, Objective, Teaching

NUMBERS = ("scale", "bias")  # parameters of the loss: alike on every process, not rows
PER_SAMPLE = ("teacher", "logits")  # spaces in which nothing is compared across samples
STANDS_FOR = {"image_h": "image", "text_h": "text", "teacher_f": "teacher", "teacher_g": "teacher"}


class NotFiniteRows(Exception):
    """Something that a :class:`~distill.train.model.Model` computed is NaN or infinite; raised on all processes alike.

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
        rows: what a :class:`~distill.train.model.Model` makes of this process's share.
        needs: of the objective.
        weights: one a teacher.
        group: the processes.

    Raises:
        NotFiniteRows: where a row or a number is not finite. Which rows travels with them, so every process knows.
    """
    local = {name for name in rows if "/" in name and needs.space in PER_SAMPLE}
    n, captions = rows["text"].shape[:2]
    fine = finite(rows)
    everyones = {k: v for k, v in rows.items() if k not in local and k not in NUMBERS}
    whole = processes.gather({**everyones, "finite": torch.stack(list(fine.values())).all(0).float()[:, None]}, group)
    positions = (whole.pop("finite")[:, 0] == 0).nonzero()[:, 0].tolist()
    if positions:
        raise NotFiniteRows(positions, [name for name, flags in fine.items() if not flags.all()])
    mine = slice(group.rank * n, (group.rank + 1) * n)
    return [
        Embeddings(
            image=whole["image"][:, 0],
            text=whole["text"][:, caption],
            scale=rows["scale"],
            bias=rows.get("bias"),
            teachers=tuple(teaching({**rows, **whole}, k, caption, needs, weight) for k, weight in enumerate(weights))
            if needs.space != "none"
            else (),
            rows=mine,
        )
        for caption in range(captions)
    ]


def finite(rows: Rows) -> dict[str, torch.Tensor]:
    """By name, which samples' rows are finite: [n] each."""
    n = len(rows["text"])
    return {
        name: value.detach().isfinite().all().expand(n)
        if name in NUMBERS
        else value.detach().flatten(1).isfinite().all(1)
        for name, value in rows.items()
    }


def teaching(rows: Rows, k: int, caption: int, needs: Needs, weight: float) -> Teaching:
    """Teacher k's side of the batch, for one of the captions."""
    own = {name.split("/")[1]: value for name, value in rows.items() if name.startswith(f"{k}/")}
    if needs.space == "shared":
        # Where a head is fixed to the identity, the embedding itself takes its place.
        bare = {"image": rows["image"], "text": rows["text"], **own}
        own = {name: own.get(name, bare.get(other)) for name, other in STANDS_FOR.items()}  # type: ignore[misc]
    chosen = {n: v[:, min(caption, v.shape[1] - 1)] for n, v in own.items() if v is not None}
    return Teaching(**chosen, weight=weight)


def terms(objective: Objective, given: Sequence[Embeddings]) -> dict[str, torch.Tensor]:
    """The objective's terms, summed over the captions of an image (LiT, arXiv 2111.07991, appendix C)."""
    parts = [objective(one) for one in given]
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
